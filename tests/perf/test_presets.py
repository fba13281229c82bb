"""The script that measures the presets: its arithmetic by hand, and one real run on few images."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.scripts import load_script


@pytest.fixture
def presets(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("perf/presets.py", monkeypatch)


def test_gains_by_hand(presets: ModuleType) -> None:
    """Tasks of unlike size count alike: zero-shot (0.5 + 0)/2, fast (0.5 + 1)/2, accurate (1 + 1)/2."""
    tasks = [np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]]), np.array([[0.0, 1.0, 1.0]])]
    gain, fraction = presets.gains(tasks)
    assert gain == pytest.approx(75.0)
    assert fraction == pytest.approx(0.5 / 0.75)


def test_it_measures_what_it_promises(presets: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # so few images may leave nothing gained; then the share is not a number, and that is what it must say
    with np.errstate(all="ignore"):
        presets.main(["--split", "tuning", "--limit", "2", "--json", str(tmp_path / "sub" / "found.json")])
    found = json.loads((tmp_path / "sub" / "found.json").read_text())
    assert found == json.loads(capsys.readouterr().out)
    assert 2 <= found["fast_forwards"] <= 24  # as many views as an image needs, and nothing runs again
    assert found["accurate_forwards"] == pytest.approx(24 + 4 + 2 * 24 / 6)
    assert found["tasks"] == 18
