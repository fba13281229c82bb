"""A second model as reward: named wherever results are."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from grpo_tta import load_backbone
from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.baselines.rlcf import RLCFSettings, rlcf_method
from grpo_tta.baselines.teacher import TaughtSettings, taught_methods, taught_rlcf_method
from grpo_tta.cli.main import app
from grpo_tta.config.serialise import short_hash
from grpo_tta.engine.policy import Policy
from tests import families


def test_it_is_rlcf_with_that_teacher(policy, tiny_backbone, images, check_method):
    backbone = tiny_backbone(seed=3)
    settings = RLCFSettings(views=5, selected=2, learning_rate=1e-3)
    teacher = Policy(backbone, make_prompts(backbone, policy.prompts.labels, policy.prompts.templates))
    expected, method = rlcf_method(settings, teacher), taught_rlcf_method(settings, backbone)
    check_method(policy, method)
    batch = images(policy, method)
    assert (method(policy, batch, {})[0].after - expected(policy, batch, {})[0].after).abs().max() < 1e-6
    # another task: the teacher's prompts follow
    fewer = Policy(policy.backbone, make_prompts(policy.backbone, ("ant", "bee", "cat")))
    assert method(fewer, images(fewer, method), {})[0].after.shape[-1] == 3


def test_the_named_methods_that_take_one(tiny_backbone):
    backbone = tiny_backbone(seed=3)
    assert [m.name for m in taught_methods(["all"], backbone)] == ["rlcf+tiny", "rlcf-full+tiny"]
    assert [m.name for m in taught_methods(["tpt", "rlcf-full"], backbone)] == ["rlcf-full+tiny"]
    assert [m.name for m in taught_methods(["grpo-tta"], backbone)] == ["rlcf+tiny"]
    method = taught_methods(["rlcf"], backbone)[0]
    assert (method.reward, method.teacher) == ("teacher", "tiny")
    assert method.settings == TaughtSettings(RLCFSettings(), "tiny", backbone.fingerprint)
    other = taught_methods(["rlcf"], tiny_backbone(seed=4))[0]
    assert short_hash(method.settings) != short_hash(other.settings)


@pytest.mark.backbones
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
    assert told["settings"]["fingerprint"] == load_backbone(str(teacher)).fingerprint
    assert command("report", str(out), "--out", str(tmp_path / "report")) == 0
    table = pd.read_csv(tmp_path / "report" / "table.csv").set_index("method")
    assert table.loc["rlcf+my-teacher", "reward"] == "teacher"
    assert table.loc["rlcf+my-teacher", "errors"] == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "rlcf+my-teacher" in page
    assert "with a teacher" in page
