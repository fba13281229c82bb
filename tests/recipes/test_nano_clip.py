"""The recipe of nano-clip's glyphs, which are frozen: asking for help must not rewrite them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from grpo_tta.data.scenes import DIGITS, LETTERS
from tests.scripts import load_script

RECIPE = "recipes/nano_clip/make_glyphs.py"


@pytest.mark.parametrize(("words", "status"), [(["--help"], 0), ([], 2), (["--wriite"], 2)])
def test_glyphs_are_not_rewritten_unasked(
    words: list[str], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_script(RECIPE, monkeypatch)
    assert recipe.TARGET.is_file()
    monkeypatch.setattr(recipe, "TARGET", tmp_path / "glyphs.npz")  # the frozen file is out of the test's reach
    with pytest.raises(SystemExit) as stop:
        recipe.main(words)
    assert stop.value.code == status
    assert not (tmp_path / "glyphs.npz").exists()


def test_glyphs_are_written_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_script(RECIPE, monkeypatch)
    monkeypatch.setattr(recipe, "TARGET", tmp_path / "glyphs.npz")
    monkeypatch.setattr(recipe, "TRAIN", recipe.TRAIN[:1])
    monkeypatch.setattr(recipe, "HELD_OUT", ())
    recipe.main(["--write"])
    with np.load(tmp_path / "glyphs.npz") as found:
        assert list(found) == ["train-DejaVuSans"]
        assert found["train-DejaVuSans"].shape == (len(DIGITS + LETTERS), recipe.SIDE, recipe.SIDE)
