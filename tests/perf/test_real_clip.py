"""perf/real_clip.py on embeddings in which all is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.scripts import load_script


def test_rules_are_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three classes and one name that never occurs; images lie at their class, but for one that lies between two."""
    script = load_script("perf/real_clip.py", monkeypatch)
    monkeypatch.setattr(script, "LENGTHS", (3, 4, 100))
    text = np.eye(4, dtype=np.float32)
    images = np.concatenate([np.repeat(text[:3], 4, axis=0), (text[:1] + text[1:2]) / 2])
    labels = np.array([0] * 4 + [1] * 4 + [2] * 4 + [0])
    np.savez(
        tmp_path / "x.npz",
        image_features=images,
        labels=labels,
        text_features=text[:3],
        other_text_features=text[3:],
        logit_scale=20.0,
    )
    assert script.main([str(tmp_path / "x.npz"), "--json", str(tmp_path / "x.json"), "--seeds", "2"]) == 0
    found = json.loads((tmp_path / "x.json").read_text())
    assert [(row["labels"], row["scale"]) for row in found["labels"]] == [(n, s) for n in (3, 4) for s in (0.5, 1.0, 2.0)]
    assert all(row["accuracy"] >= 100 * 12 / 13 for row in found["labels"])
    assert all(row["decided"] == pytest.approx(100 * 12 / 13) for row in found["labels"])  # all but the one between two
    assert [row["labels"] for row in found["stream"]] == [3, 4]
    assert all(row["prior 0.0"] == pytest.approx(row["tda"]) for row in found["stream"])
