"""perf/with_labels.py runs and writes what it promises; its clock is not judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.scripts import load_script


def test_both_ways_answer_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = load_script("perf/with_labels.py", monkeypatch)
    monkeypatch.setenv("GRPO_TTA_CACHE", str(tmp_path / "cache"))
    assert script.main(["--model", "nano-clip", "--rounds", "2", "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["model"], found["labels"], found["rounds"]) == ("nano-clip", 10, 2)
    assert found["largest_difference"] == 0
    assert found["ratio"] > 0
