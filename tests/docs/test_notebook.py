"""The walk-through runs, and its stored outputs are those of the present version."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.docs.sentences import ROOT
from tests.scripts import load_script

NOTEBOOK = ROOT / "docs" / "walkthrough.ipynb"
NUMBER = re.compile(r"\d+\.\d+(?:e-?\d+)?")
NEAR = 0.02
"""By which a probability or a reward may differ on another machine."""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("docs/notebook.py", monkeypatch)


def texts(book: dict[str, Any]) -> list[str]:
    """What each code cell printed or showed, in words."""
    found = []
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            of_cell = [o.get("text", o.get("data", {}).get("text/plain", [])) for o in cell["outputs"]]
            found.append("\n".join("".join(lines) for lines in of_cell))
    return found


def images(book: dict[str, Any]) -> int:
    return sum("image/png" in o.get("data", {}) for cell in book["cells"] for o in cell.get("outputs", []))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_it_runs_top_to_bottom_and_gives_what_is_stored(script: ModuleType, tmp_path: Path) -> None:
    before = NOTEBOOK.read_bytes()
    stored = json.loads(before)
    script.main(["--out", str(tmp_path / "again.ipynb")])
    made = json.loads((tmp_path / "again.ipynb").read_text())
    assert NOTEBOOK.read_bytes() == before
    assert [cell["source"] for cell in made["cells"]] == [cell["source"] for cell in stored["cells"]]
    assert images(made) == images(stored) == 2
    for was, found in zip(texts(stored), texts(made), strict=True):
        assert " ".join(NUMBER.sub("#", found).split()) == " ".join(NUMBER.sub("#", was).split()), "run docs/notebook.py"
        assert [float(n) for n in NUMBER.findall(found)] == pytest.approx([float(n) for n in NUMBER.findall(was)], abs=NEAR)
    assert f"grpo-tta {version('grpo-tta')}" in texts(stored)[0]
    assert not re.search(r"/(?:home|work|root|tmp|usr)/", before.decode())  # no path of the machine that ran it


def test_it_becomes_a_page(script: ModuleType) -> None:
    html = ["<style>p {}</style><p>\n", "\n q</p>"]
    outputs = [
        {"output_type": "stream", "text": ["1\n", "2\n"]},
        {"output_type": "execute_result", "data": {"text/plain": ["3"]}},
        {"output_type": "execute_result", "data": {"text/plain": ["4"], "text/html": html}},
        {"output_type": "display_data", "data": {"image/png": "aa==\n", "text/plain": ["5"]}},
    ]
    cells = [{"cell_type": "markdown", "source": ["# A\n", "b"]}, {"cell_type": "code", "source": ["x"], "outputs": outputs}]
    book = {"cells": [*cells, {"cell_type": "code", "source": ["y"], "outputs": []}]}
    assert script.as_markdown(book).split("\n\n") == [
        "# A\nb",
        "```python\nx\n```",
        "```text\n1\n2\n```",
        "```text\n3\n```",
        "<p>\nq</p>",
        '<img alt="what the code above shows" src="data:image/png;base64,aa==">',
        "```python\ny\n```\n",
    ]
