"""perf/joint_search.py: its arithmetic by hand, and one real search on a few images."""

from __future__ import annotations

import csv
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from grpo_tta.baselines.registry import known_methods
from grpo_tta.method.settings import DEFAULT, FAST
from tests.scripts import load_script


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("perf/joint_search.py", monkeypatch)


def test_each_family_has_one_present_setting_which_is_the_library_s(search: ModuleType) -> None:
    tried = list(search.trials())
    assert len({(trial.family, trial.setting) for trial in tried}) == len(tried)
    present = {trial.family: trial.method.settings for trial in tried if trial.present}
    assert sum(trial.present for trial in tried) == len(present) == 5
    assert present["grpo-tta"] == DEFAULT
    assert present["grpo-tta-fast"] == FAST
    known = known_methods()
    assert present["vte"] == known["vte-tuned"].settings
    assert present["mta"] == known["mta-tuned"].settings
    assert present["zero"].selected == known["zero-tuned"].settings.selected
    ours = [(trial.setting, trial.method.settings) for trial in tried if trial.family.startswith("grpo-tta")]
    assert all(name.startswith(f"sharpness {found.weighting.sharpness:g}, ") for name, found in ours)
    counts = {family: sum(trial.family == family for trial in tried) for family in present}
    assert counts == {"grpo-tta": 30, "grpo-tta-fast": 30, "zero": 24, "vte": 24, "mta": 30}
    assert sorted(trial.method.settings.selected for trial in tried if trial.family == "zero") == list(range(1, 25))


def test_an_error_counts_a_photograph_once(search: ModuleType) -> None:
    """Two tasks of two photographs, won and lost: alike in both tasks, or the other way round."""

    def result(names: str) -> object:
        return search.Result(np.array(list(names)), np.zeros((1, 2)), np.zeros((1, 2)))

    won_and_lost = np.array([1.0, -1.0])
    # every image weighs 1/4; a photograph that is won in both tasks sums to 1/2
    assert search.standard_error([result("ab"), result("ab")], [won_and_lost] * 2) == pytest.approx(np.sqrt(2 * 0.5**2))
    assert search.standard_error([result("ab"), result("ba")], [won_and_lost] * 2) == pytest.approx(0.0)
    assert search.standard_error([result("ab"), result("cd")], [won_and_lost] * 2) == pytest.approx(np.sqrt(4 * 0.25**2))


def test_the_best_is_one_that_is_allowed(search: ModuleType) -> None:
    rows = [
        {"family": "zero", "setting": "a", "mean": 1.0},
        {"family": "zero", "setting": "b", "mean": 2.0},
        {"family": "grpo-tta-fast", "setting": "c", "mean": 9.0, "allowed": ""},
        {"family": "grpo-tta-fast", "setting": "d", "mean": 3.0, "allowed": "yes"},
    ]
    assert {family: row["setting"] for family, row in search.best(rows).items()} == {"zero": "b", "grpo-tta-fast": "d"}


def test_it_searches_what_it_encoded(search: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [str(tmp_path), "--model", "unused", "--suites", "nano", "--tasks", "fog,contrast"]
    assert search.main(["encode", *given, "--limit", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == ["nano fog 6", "nano contrast 6"]
    assert search.main(["encode", *given, "--limit", "2"]) == 0
    assert capsys.readouterr().out == ""  # nothing is encoded twice
    file = tmp_path / "trials.csv"
    assert search.main(["search", *given, "--csv", str(file)]) == 0
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert len(rows) == 140
    by_name = {(row["family"], row["setting"]): row for row in rows}
    assert float(by_name["zero-shot", ""]["passes_nano"]) == 1
    assert float(by_name["view-mean", ""]["passes_nano"]) == 24
    assert float(by_name["grpo-tta", "sharpness 3, prior 0.05"]["passes_nano"]) == 28
    assert by_name["grpo-tta", "sharpness 3, prior 0.05"]["minus_present"] == "0.0"
    # no weights and no prior: the mean of the views
    assert by_name["grpo-tta", "sharpness 0, prior 0"]["nano"] == by_name["view-mean", ""]["nano"]
    assert 3 <= float(by_name["grpo-tta-fast", "sharpness 3, share 0.08"]["passes_nano"]) < 24
