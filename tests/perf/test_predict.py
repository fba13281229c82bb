"""The script that measures `predict`: its arithmetic on a few images. No clock and no memory is judged."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.scripts import load_script


def test_it_measures_both_numbers_of_images(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("perf/predict.py", monkeypatch)
    words = [
        "predict.py",
        "--few",
        "2",
        "--many",
        "6",
        "--outputs",
        "out",
        "--labels",
        "12",
        "--json",
        str(tmp_path / "x.json"),
    ]
    monkeypatch.setattr(sys, "argv", words)
    assert script.main() in (0, 1)  # memory is judged where it is measured in earnest
    (row,) = json.loads((tmp_path / "x.json").read_text())["memory"]
    assert (row["few"]["images"], row["many"]["images"]) == (2, 6)
    assert row["memory_ratio"] == row["many"]["peak_mb"] / row["few"]["peak_mb"]
    assert row["few"]["bytes_per_row"] > row["many"]["bytes_per_row"] > 0  # a part has a heading
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_labels_are_distinct(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script("perf/predict.py", monkeypatch)
    assert [len(set(script.labels(count))) for count in (2, 3, 1_000)] == [2, 3, 1_000]


def test_it_measures_a_photograph_and_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("perf/predict.py", monkeypatch)
    monkeypatch.setattr(script, "PHOTOGRAPH", (1800, 1200))
    words = ["--parts", "photograph,rows", "--repeats", "1", "--rows", "300", "--json", str(tmp_path / "x.json")]
    monkeypatch.setattr(sys, "argv", ["predict.py", *words])
    assert script.main() in (0, 1)
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["photograph"]["cpu_seconds"] > 0
    assert found["rows"]["rows"] == 300
    assert found["rows"]["megabytes"] > 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_photograph_is_one_of_twelve_megapixels(monkeypatch: pytest.MonkeyPatch) -> None:
    width, height = load_script("perf/predict.py", monkeypatch).PHOTOGRAPH
    assert width * height == 12_000_000
