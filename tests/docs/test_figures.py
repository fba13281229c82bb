"""The figures of README and docs: drawn anew on a small sample, of the present version, each with its command beside it."""

from __future__ import annotations

import hashlib
import re
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from tests.docs.sentences import ROOT, pages
from tests.report.boxes import boxes, check_texts
from tests.scripts import load_script

COMMITTED = {name: ROOT / "docs" / f"{name}.png" for name in ("demo", "method")}
IMAGE = re.compile(r"!\[[^]]*\]\(([^)]+)\)")
CAPTION = re.compile(r"\s*\*Figure: ([^*]+)\*")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("docs/make_figures.py", monkeypatch)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def drawn_by(path: Path) -> str:
    with Image.open(path) as image:
        return str(image.info["Software"])


def digests() -> dict[str, str]:
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in COMMITTED.items()}


def test_one_command_draws_every_figure_elsewhere(script: ModuleType, tmp_path: Path) -> None:
    before = digests()
    script.main(["--out", str(tmp_path / "figures"), "--limit", "2", "--tasks", "source,fog"])
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == set(COMMITTED)
    assert digests() == before
    for name, committed in COMMITTED.items():
        drawn = tmp_path / "figures" / committed.name
        assert pixels(drawn).shape == pixels(committed).shape
        assert drawn_by(drawn) == f"grpo-tta {version('grpo-tta')}"
        assert drawn_by(committed) == drawn_by(drawn), f"{name}.png is of another version"
    # the sample of the other figure is smaller, this one is whole; letters may be drawn a little differently elsewhere
    unlike = abs(pixels(tmp_path / "figures" / "method.png") - pixels(COMMITTED["method"])).max(-1) > 60
    assert unlike.mean() < 0.01, "the method gives other numbers than docs/method.png shows: run docs/make_figures.py"


def test_texts_of_the_method_figure_do_not_overlap(script: ModuleType) -> None:
    figure = script.method_plot()
    check_texts(figure)
    texts = [text.split(" ", 1)[1] for text in boxes(figure)]
    assert sum(text.count("house") for text in texts) == 2  # in the title and once as a label
    assert any("nano-clip" in text and "n = 1" in text and "seed 0" in text for text in texts)


def test_every_figure_stands_with_its_command() -> None:
    found = {}
    for page in pages():
        text = page.read_text()
        for match in IMAGE.finditer(text):
            caption = CAPTION.match(text, match.end())
            assert caption, f"{page.name}: {match[1]} has no caption (*Figure: ...*)"
            assert re.match(r"`(grpo-tta|python) [^`]+`", caption[1]), f"{page.name}: the caption does not begin with a command"
            for words in (f"version {version('grpo-tta')}", "model nano-clip", "n = ", "seed 0"):
                assert words in caption[1], f"the caption of {match[1]} does not say {words}"
            found[Path(match[1]).stem] = caption[1]
    assert set(found) == set(COMMITTED)
    limit = re.search(r"grpo-tta demo --limit (\d+)", found["demo"])
    assert limit
    assert f"n = {limit[1]} " in found["demo"]
