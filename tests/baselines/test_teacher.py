"""A second model as reward: named wherever results are."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from grpo_tta import load_tower
from grpo_tta.baselines.rlcf import RLCFSettings, rlcf_method
from grpo_tta.baselines.teacher import TaughtSettings, taught_methods, taught_rlcf_method
from grpo_tta.cli import app
from grpo_tta.policy import Policy
from grpo_tta.prompts import make_prompts
from grpo_tta.records import short_hash
from tests import families


def test_it_is_rlcf_with_that_teacher(policy, tiny_tower, images, check_method):
    tower = tiny_tower(seed=3)
    settings = RLCFSettings(views=5, selected=2, learning_rate=1e-3)
    teacher = Policy(tower, make_prompts(tower, policy.prompts.labels, policy.prompts.templates))
    expected, method = rlcf_method(settings, teacher), taught_rlcf_method(settings, tower)
    check_method(policy, method)
    batch = images(policy, method)
    assert (method(policy, batch, {})[0].after - expected(policy, batch, {})[0].after).abs().max() < 1e-6
    # another task: the teacher's prompts follow
    fewer = Policy(policy.tower, make_prompts(policy.tower, ("ant", "bee", "cat")))
    assert method(fewer, images(fewer, method), {})[0].after.shape[-1] == 3


def test_the_named_methods_that_take_one(tiny_tower):
    tower = tiny_tower(seed=3)
    assert [m.name for m in taught_methods(["all"], tower)] == ["rlcf+tiny", "rlcf-full+tiny"]
    assert [m.name for m in taught_methods(["tpt", "rlcf-full"], tower)] == ["rlcf-full+tiny"]
    assert [m.name for m in taught_methods(["grpo-tta"], tower)] == ["rlcf+tiny"]
    method = taught_methods(["rlcf"], tower)[0]
    assert (method.reward, method.teacher) == ("teacher", "tiny")
    assert method.settings == TaughtSettings(RLCFSettings(), "tiny", tower.fingerprint)
    other = taught_methods(["rlcf"], tiny_tower(seed=4))[0]
    assert short_hash(method.settings) != short_hash(other.settings)


@pytest.mark.towers
def test_bench_and_report_say_which_model_scored(tmp_path: Path):
    """nano-clip taught by a model of another architecture, size and library."""
    teacher = families.write("transformers-clip", tmp_path / "my-teacher")
    out = tmp_path / "run"

    def command(*arguments: str) -> int:
        return CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code

    line = ("bench", "--tasks", "fog", "--limit", "2", "--methods", "grpo-tta", "--batch", "2", "--out", str(out))
    assert command(*line, "--teacher", str(teacher)) == 0
    run = json.loads((out / "run.json").read_text())
    told = run["methods"]["rlcf+my-teacher"]
    assert (told["reward"], told["teacher"]) == ("teacher", str(teacher))
    assert told["settings"]["teacher"] == str(teacher)
    assert told["settings"]["fingerprint"] == load_tower(str(teacher)).fingerprint
    assert command("report", str(out), "--out", str(tmp_path / "report")) == 0
    table = pd.read_csv(tmp_path / "report" / "table.csv").set_index("method")
    assert table.loc["rlcf+my-teacher", "reward"] == "teacher"
    assert table.loc["rlcf+my-teacher", "errors"] == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "rlcf+my-teacher" in page
    assert "with a teacher" in page
