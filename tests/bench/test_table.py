"""Several seeds and fewer images for expensive methods, in one command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from grpo_tta.backbones.base import Backbone
from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.baselines.registry import choose_methods, grpo_method
from grpo_tta.baselines.rlcf import RLCFSettings, rlcf_method
from grpo_tta.bench.records import TIME_AND_MEMORY, read_records
from grpo_tta.bench.runner import run
from grpo_tta.bench.runs import RunSettings, describe_run
from grpo_tta.bench.table import TablePlan, expensive_methods
from grpo_tta.cli.main import app
from grpo_tta.data.tasks import nano_tasks
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.online import stream_method
from grpo_tta.method.online_settings import StreamSettings
from grpo_tta.method.settings import GRPOSettings

SMALL = GRPOSettings(views=ViewSettings(views=4, content_free=2))
METHODS = [
    *choose_methods(["zero-shot"]),
    grpo_method(SMALL, "small"),
    stream_method(StreamSettings(update_size=2), "online"),
]


def table(folder: Path) -> pd.DataFrame:
    rows = read_records([folder]).drop(columns=list(TIME_AND_MEMORY))
    return rows.sort_values(["task", "method", "order"], ignore_index=True)


def test_fewer_images_change_no_answer(nano_backbone: Backbone, tmp_path: Path) -> None:
    tasks = nano_tasks(["fog"], "tuning", 10)
    settings = RunSettings(batch=3, chunk=4)
    run(nano_backbone, tasks, METHODS, tmp_path / "all", settings, timed=False)
    fewer = replace(settings, first_only={"small": 5, "online": 6})
    run(nano_backbone, tasks, METHODS, tmp_path / "fewer", fewer, timed=False)
    every, some = table(tmp_path / "all"), table(tmp_path / "fewer")
    assert some.groupby("method").size().to_dict() == {"zero-shot": 10, "small": 5, "online": 6}
    assert sorted(some[some["method"] == "small"]["image_id"]) == [f"nano/fog/tuning/{i:04d}" for i in range(5)]
    assert some[some["method"] == "online"]["order"].tolist() == list(range(6))  # the first of the stream
    both = every.merge(some, on=["image_id", "method"], suffixes=("", "_some"))
    assert len(both) == 21
    assert (both["prediction"] == both["prediction_some"]).all()
    assert (both["confidence"] - both["confidence_some"]).abs().max() < 1e-5
    with pytest.raises(UserError, match=r"another run \(first_only differ\)"):
        run(nano_backbone, tasks, METHODS, tmp_path / "fewer", settings, timed=False)


def test_a_bad_image_is_a_row_of_those_that_were_to_see_it(nano_backbone: Backbone, tmp_path: Path) -> None:
    (task,) = nano_tasks(["fog"], "tuning", 6)

    def load(number: int) -> tuple[Image.Image, int]:
        if number in (1, 5):
            raise UserError("damaged")
        return task.load(number)

    bad = replace(task, load=load)
    run(nano_backbone, [bad], METHODS[:2], tmp_path / "x", RunSettings(first_only={"small": 3}), timed=False)
    failed = read_records([tmp_path / "x"]).query("error.notna()")
    found = sorted(zip(failed["method"], failed["image_id"].str[-1], strict=True))
    assert found == [("small", "1"), ("zero-shot", "1"), ("zero-shot", "5")]


def test_expensive_methods_are_found_by_what_they_count(nano_backbone: Backbone) -> None:
    (task,) = nano_tasks(["fog"], "tuning", 3)
    known = choose_methods(["zero-shot", "zero", "grpo-tta-paper", "rlcf"])
    assert expensive_methods(nano_backbone, task, known, RunSettings()) == ["grpo-tta-paper", "rlcf"]  # zero takes 64, no more
    assert expensive_methods(nano_backbone, task, METHODS, RunSettings(), above=6) == ["small", "online"]

    def load(number: int) -> tuple[Image.Image, int]:
        raise UserError("damaged")

    assert expensive_methods(nano_backbone, replace(task, load=load), known, RunSettings()) == []


def test_one_command_runs_seeds_and_reports(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    arguments = ["bench", "--methods", "view-mean,grpo-tta,grpo-tta-paper", "--tasks", "fog,letters", "--split", "tuning",
                 "--limit", "4", "--limit-heavy", "2", "--seeds", "0,1", "--out", str(out), "--report"]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exception is None, done.output
    assert "At most 2 images per task for grpo-tta-paper" in done.output
    infos = [json.loads((out / f"seed-{seed}" / "run.json").read_text()) for seed in (0, 1)]
    assert [info["seed"] for info in infos] == [0, 1]
    assert [bool(info["cost"]) for info in infos] == [True, False]  # timed once
    assert infos[0]["first_only"] == {"grpo-tta-paper": 2}
    assert infos[0]["classes"]["letters"][:2] == ["A", "B"]
    found = pd.read_csv(out / "report" / "table.csv").set_index("method")
    assert found["images"].to_dict() == {"zero-shot": 8, "view-mean": 8, "grpo-tta": 8, "grpo-tta-paper": 4}
    assert found["ms"].gt(0).all()
    assert pd.read_csv(out / "report" / "comparisons.csv").set_index("other").loc["grpo-tta-paper", "images"] == 4
    again = CliRunner().invoke(app, arguments)  # resumes: nothing is left to do
    assert again.exception is None


def test_seeds_and_limits_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="each seed once"):
        TablePlan(seeds=(0, 0))
    with pytest.raises(UserError, match="set --limit-heavy to at least 1"):
        TablePlan(expensive_limit=0)
    done = CliRunner().invoke(app, ["bench", "--seeds", "0,x", "--out", str(tmp_path / "x")])
    assert "Seed 'x' is no whole number" in str(done.exception)
    assert not (tmp_path / "x").exists()


def test_a_run_names_its_teacher(nano_backbone: Backbone) -> None:
    (task,) = nano_tasks(["fog"], "tuning", 2)
    teacher = Policy(nano_backbone, make_prompts(nano_backbone, task.classes))
    methods = [rlcf_method(RLCFSettings(), teacher, "taught"), rlcf_method(RLCFSettings())]
    found = describe_run(nano_backbone, [task], methods, RunSettings())["methods"]
    assert (found["taught"]["reward"], found["taught"]["teacher"]) == ("teacher", nano_backbone.name)
    assert found["rlcf"]["teacher"] is None
