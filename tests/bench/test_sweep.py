"""Sweeps: what is read, what is planned, what is run, and the report of one whose numbers can be checked by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from grpo_tta.backbones.base import Backbone
from grpo_tta.bench.records import FORMAT, TIME_AND_MEMORY, Record, find_runs, part_path, read_records, write_json, write_part
from grpo_tta.bench.runner import run
from grpo_tta.bench.runs import RunSettings
from grpo_tta.bench.sweep import run_sweep
from grpo_tta.bench.sweep_axes import Axis, Setting, choose_axes, default_axes, split_outside, vary
from grpo_tta.bench.sweep_axes import parse_axis as parse_axis_of
from grpo_tta.bench.sweep_plan import BASE, control_of, make_plan
from grpo_tta.cli.main import app
from grpo_tta.config.serialise import to_plain
from grpo_tta.data.tasks import nano_tasks
from grpo_tta.engine.early_exit import Rounds
from grpo_tta.engine.optim import Adam
from grpo_tta.errors import UserError
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.candidates import Nucleus, TopK
from grpo_tta.method.grpo import grpo_method
from grpo_tta.method.objective import ZScore
from grpo_tta.method.rewards import Alignment, ContentFree
from grpo_tta.method.settings import DEFAULT, FAST, PAPER, GRPOSettings, Steps
from grpo_tta.method.weighting import MostConfident
from grpo_tta.report.html import write_report

QUIET = Console(quiet=True)


# reading


def parse_axis(text: str) -> Axis:
    return parse_axis_of(text, Setting())


def test_separators_inside_of_brackets_belong_to_a_value() -> None:
    assert split_outside("TopK(3, per=view),Nucleus(mass=0.9)", ",") == ["TopK(3, per=view)", "Nucleus(mass=0.9)"]
    assert split_outside("(0.1, 1),(0.5, 1)", ",") == ["(0.1, 1)", "(0.5, 1)"]
    assert split_outside("a 'b,c',d", ",") == ["a 'b,c'", "d"]


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("steps.count=1,3", Axis("steps.count", (1, 3))),
        ("steps.optimizer.learning_rate = 1e-2, 1", Axis("steps.optimizer.learning_rate", (0.01, 1.0))),
        ("steps.max_kl=none,4", Axis("steps.max_kl", (None, 4.0))),
        ("group=TopK(3, per=view),Nucleus(mass=0.8)", Axis("group", (TopK(3, per="view"), Nucleus(mass=0.8)))),
        ("reward=Alignment(),Alignment() + 0.1 * ContentFree()",
         Axis("reward", (Alignment(), Alignment() + 0.1 * ContentFree()))),
        ("views.crop_scale=(0.1, 1),(0.5, 1)", Axis("views.crop_scale", ((0.1, 1.0), (0.5, 1.0)))),
        ("steps.clip=0.1,0.2@steps.count=3@steps.optimizer=Adam(0.1)",
         Axis("steps.clip", (0.1, 0.2), (("steps.count", 3), ("steps.optimizer", Adam(0.1))))),
        ("weighting.count=2,4@weighting=MostConfident(6)", Axis("weighting.count", (2, 4), (("weighting", MostConfident(6)),))),
        ("templates=task,a {}.", Axis("templates", ("task", "a {}."))),
        ("steps.count=3,3", Axis("steps.count", (3,))),
    ],
)  # fmt: skip
def test_axes_are_read(text: str, axis: Axis) -> None:
    assert parse_axis(text) == axis


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps.count", "write a setting and its values"),
        ("steps.count=1,,3", "write a setting and its values"),
        ("stepz=1", "'stepz' is no setting that can be changed; choose from views, views.views"),
        ("clip=0.1", r"did you mean steps.clip\?"),
        ("steps.count=1.5", "count cannot be '1.5'; write a whole number"),
        ("steps.clip=wide", "clip cannot be 'wide'; write a number"),
        ("advantage=best", "advantage cannot be 'best'; choose Target, ZScore, Centred or FILE.py:NAME"),
        ("views.crop_scale=0.5", r"write 2 values, for example \(0.5, 1\)"),
        ("steps.clip=0.1@steps.count=1,3", "behind @ goes one setting with one value"),
        ("steps.count=none", "count cannot be 'none'"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_axis(text)


# planning


def test_each_setting_is_run_once_and_with_those_that_share_its_views() -> None:
    texts = ("steps.count=1,3", "steps.clip=0.2,0.4@steps.count=3", "views.restored=0", "views.views=8")
    plan = make_plan(Setting(), [parse_axis(text) for text in texts], nano_tasks(["fog"], "tuning", 2))
    assert [(p.axis, p.value, p.method, p.control, p.run_group, p.is_base) for p in plan.points] == [
        ("steps.count", 1, BASE, "base (no update)", 0, True),
        ("steps.count", 3, "steps.count=3", "base (no update)", 0, False),
        ("steps.clip@steps.count=3", 0.2, "steps.count=3", "base (no update)", 0, False),  # the same setting, so the same rows
        ("steps.clip@steps.count=3", 0.4, "steps.clip=0.4@steps.count=3", "base (no update)", 0, False),
        ("views.restored", 0.0, "views.restored=0", "views.restored=0 (no update)", 1, False),
        ("views.restored", 0.5, BASE, "base (no update)", 0, True),  # the base is on every axis, named or not
        ("views.views", 8, "views.views=8", "views.views=8 (no update)", 0, False),  # fewer views are the first of the same
        ("views.views", 24, BASE, "base (no update)", 0, True),
    ]
    assert [list(group.methods) for group in plan.run_groups] == [
        [BASE, "steps.count=3", "steps.clip=0.4@steps.count=3", "views.views=8"],
        ["views.restored=0"],
    ]
    assert plan.run_groups[1].views.restored == 0
    assert list(plan.run_groups[0].controls) == ["base (no update)", "views.views=8 (no update)"]


def test_no_more_views_are_selected_than_there_are() -> None:
    assert vary(Setting(), "views.views", 32).grpo.views.views == 32
    few = vary(Setting(grpo=PAPER), "views.views", 4).grpo
    assert (few.views.views, few.weighting) == (4, MostConfident(4))
    assert vary(Setting(grpo=PAPER), "views.views", 16).grpo.weighting == MostConfident(6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("weighting=MostConfident(30)", r"weighting at weighting=MostConfident\(count=30\): 30 of 24 views cannot be selected"),
        ("reward=StreamPrior()", r"reward at StreamPrior\(\): The stream prior needs a stream"),
        ("views.content_free=0", r"The content-free prior needs content-free views"),
        ("templates=nothing", r"must hold exactly one \{\}"),
        ("steps.clip=-0.3", r"steps.clip at steps.clip=-0.3: clip must be positive"),
    ],
)
def test_impossible_settings_are_refused_before_anything_runs(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_plan(Setting(), [parse_axis(text)], nano_tasks(["counts"], "tuning", 2))


@pytest.mark.parametrize("preset", [DEFAULT, FAST, PAPER])
def test_the_built_in_plan_fits_all_presets_and_all_tasks(preset: GRPOSettings) -> None:
    plan = make_plan(Setting(grpo=preset), choose_axes(["all"], [], preset), nano_tasks(None, "tuning", 1))
    varied = {point.axis for point in plan.points}
    assert varied == set(default_axes(preset))
    for axis in varied:
        assert sum(point.is_base for point in plan.points if point.axis == axis) == (
            0 if "@" in axis and preset.steps.count != 3 else 1
        )


def test_axes_are_chosen() -> None:
    assert [a.title for a in choose_axes(["steps.count", "steps.clip"], ["steps.count=7", "model=a,b"], DEFAULT)] == [
        "steps.count",
        "steps.clip@steps.count=3",
        "model",
    ]
    assert choose_axes(["steps.count"], ["steps.count=7"], DEFAULT) == [Axis("steps.count", (7,))]
    with pytest.raises(UserError, match="no axis 'speed'; choose from all, "):
        choose_axes(["speed"], [], DEFAULT)
    with pytest.raises(UserError, match="Nothing to vary"):
        choose_axes([], [], DEFAULT)


def test_the_reporting_split_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["sweep", "--vary", "steps.count=1", "--split", "reporting", "--out", str(tmp_path / "x")])
    assert isinstance(done.exception, UserError)
    assert "on the tuning split alone" in str(done.exception)
    assert not (tmp_path / "x").exists()


# running

SMALL = GRPOSettings(views=ViewSettings(views=4, content_free=2))


def table(folders: list[Path]) -> pd.DataFrame:
    rows = read_records(folders).drop(columns=list(TIME_AND_MEMORY))
    return rows.sort_values(["task", "image_id", "method", "seed"], ignore_index=True)


def test_a_sweep_says_what_separate_runs_say_and_resumes(nano_backbone: Backbone, tmp_path: Path) -> None:
    tasks = nano_tasks(["fog"], "tuning", 5)
    axes = [parse_axis(text) for text in ("steps.count=0,2", "views.restored=0", "templates=task,ensemble", "views.views=2")]
    settings = RunSettings(batch=4, chunk=3)
    run_sweep(Setting(grpo=SMALL), axes, tasks, tmp_path / "x", settings, QUIET, seeds=(0, 1))
    folders = [tmp_path / "x" / f"group-{group}" / f"seed-{seed}" for group in range(3) for seed in (0, 1)]
    found = table(folders)
    # base, steps.count=0, steps.count=2, views.views=2; restored=0; ensemble; a control for all but the steps
    assert found.groupby("method").size().eq(5 * 2).all()
    assert found["method"].nunique() == 6 + 4
    assert found["error"].isna().all()

    alone = [grpo_method(SMALL, BASE), grpo_method(replace(SMALL, steps=Steps(2)), "steps.count=2")]
    run(nano_backbone, tasks, alone, tmp_path / "base", RunSettings(seed=1))
    few = replace(SMALL, views=replace(SMALL.views, restored=0.0))
    views = replace(SMALL.views, restored=0.0)
    run(nano_backbone, tasks, [grpo_method(few, "views.restored=0")], tmp_path / "few", RunSettings(seed=1, views=views))
    separate = table([tmp_path / "base", tmp_path / "few"])
    same = found[(found["seed"] == 1) & found["method"].isin(separate["method"])].reset_index(drop=True)
    assert same["prediction"].tolist() == separate["prediction"].tolist()
    assert (same["confidence"] - separate["confidence"]).abs().max() < 1e-5
    ensemble = found[found["method"] == "templates=ensemble"]["confidence_before"].to_numpy()
    assert abs(ensemble - found[found["method"] == BASE]["confidence_before"].to_numpy()).max() > 1e-3  # other prompts

    part_path(folders[0], "fog", 1).unlink()
    with pytest.raises(UserError, match="unfinished sweep"):
        write_report([tmp_path / "x"], tmp_path / "report", console=QUIET)
    kept = {p: p.stat().st_mtime_ns for folder in folders for p in (folder / "records").iterdir()}
    run_sweep(Setting(grpo=SMALL), axes, tasks, tmp_path / "x", settings, QUIET, seeds=(0, 1))
    pd.testing.assert_frame_equal(table(folders), found)
    assert all(p.stat().st_mtime_ns == when for p, when in kept.items())
    with pytest.raises(UserError, match=r"another sweep \(points, run_groups differ\)|another sweep \(points differ\)"):
        run_sweep(Setting(grpo=SMALL), axes[:1], tasks, tmp_path / "x", settings, QUIET, seeds=(0, 1))
    with pytest.raises(UserError, match="holds a run, not a sweep"):
        run_sweep(Setting(grpo=SMALL), axes, tasks, tmp_path / "base", settings, QUIET)
    write_report([tmp_path / "x"], tmp_path / "report", console=QUIET)
    assert len(pd.read_csv(tmp_path / "report" / "sweep.csv")) == 3 + 2 + 2 + 2


def test_a_setting_that_the_model_does_not_bear_stops_the_sweep(tmp_path: Path) -> None:
    axes = [parse_axis("tune.last_blocks=99")]
    with pytest.raises(UserError, match=r"tune.last_blocks=99: "):
        run_sweep(Setting(grpo=SMALL), axes, nano_tasks(["fog"], "tuning", 2), tmp_path / "x", RunSettings(), QUIET)


# reporting

# method -> a digit an image of each of two tasks: 1 right, 0 wrong
RIGHT = {
    BASE: ("1100", "1000"),
    "base (no update)": ("1100", "0000"),
    "steps.count=3": ("1110", "1100"),
    "advantage=ZScore()": ("0000", "1000"),
}


def write_sweep(folder: Path, *, seeds: tuple[int, ...] = (0,), lacking: str = "") -> Path:
    """A finished sweep of one run group, in which the frozen model is always wrong."""
    control = "base (no update)"
    points = [
        ("steps.count", "number", "10", "steps.count=3", False),
        ("steps.count", "number", "1", BASE, True),
        ("advantage", "choice", "ZScore()", "advantage=ZScore()", False),
        ("advantage", "choice", "Target()", BASE, True),
    ]
    about = {
        "format": FORMAT,
        "base": to_plain(Setting()),
        "split": "tuning",
        "seeds": list(seeds),
        "tasks": {"fog": 4, "letters": 4},
        "points": [
            {"axis": axis, "kind": kind, "value": value, "method": method, "control": control, "run_group": 0, "base": base}
            for axis, kind, value, method, base in points
        ],
        "run_groups": [{"model": "nano-clip", "templates": "task", "views": to_plain(ViewSettings())}],
    }
    write_json(folder / "sweep.json", about)
    for seed in seeds:
        run_folder = folder / "group-0" / f"seed-{seed}"
        write_json(run_folder / "run.json", {"format": FORMAT, "tasks": {"fog": 4, "letters": 4}})
        for place, (task, kind) in enumerate((("fog", "shifted"), ("letters", "cross-domain"))):
            rows = [
                Record(task=task, kind=kind, image_id=f"nano/{task}/tuning/{i:04d}", order=i, label=1, method=method,
                       protocol="episodic", reward="own", seed=seed, settings_hash="aaa", versions="grpo-tta=0.1.0",
                       prediction_before=0, prediction=int(digit), forwards=28.0, backwards=4.0, milliseconds=2.0,
                       clipped=0.25, kl=0.0, updated=True)
                for method, words in RIGHT.items()
                for i, digit in enumerate(words[place])
                if method != lacking
            ]  # fmt: skip
            write_part(part_path(run_folder, task, 0), rows)
    return folder


def test_the_report_of_a_sweep_by_hand(tmp_path: Path) -> None:
    with (tmp_path / "terminal.txt").open("w") as terminal:
        write_report([write_sweep(tmp_path / "x", seeds=(0, 1))], tmp_path / "out", console=Console(file=terminal, width=160))
    found = pd.read_csv(tmp_path / "out" / "sweep.csv").set_index(["axis", "value"])
    assert [str(value) for axis, value in found.index if axis == "steps.count"] == ["1", "10"]  # by size
    assert found["accuracy"].tolist() == [37.5, 62.5, 12.5, 37.5]  # means over the two tasks
    assert found["difference"].tolist() == [0, 25, -25, 0]
    assert found["over_control"].tolist() == [12.5, 37.5, -12.5, 12.5]
    assert found["zero_shot"].eq(0).all()
    assert found["images"].eq(8).all()
    assert found["seeds"].eq(2).all()
    assert found["clipped"].eq(0.25).all()
    steps = found.loc[("steps.count", "10")]
    assert steps["difference_low"] < 25 < steps["difference_high"]
    tasks = pd.read_csv(tmp_path / "out" / "sweep-tasks.csv").set_index(["axis", "value", "task"])
    assert tasks.loc[("steps.count", "10", "fog"), "accuracy"] == 75
    assert tasks.loc[("steps.count", "10", "letters"), ["rows", "accuracy"]].tolist() == [8, 50]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 2
    assert "advantage" in (tmp_path / "terminal.txt").read_text()


def test_unfinished_sweeps_and_mixtures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unfinished sweep"):
        write_report([write_sweep(tmp_path / "x", lacking="advantage=ZScore()")], tmp_path / "out", console=QUIET)
    whole = write_sweep(tmp_path / "y")
    with pytest.raises(UserError, match="reported alone"):
        write_report([whole, tmp_path / "x"], tmp_path / "out", console=QUIET)
    assert find_runs([whole / "group-0"]) == [whole / "group-0" / "seed-0"]
    (whole / "group-0" / "seed-0" / "run.json").unlink()
    with pytest.raises(UserError, match="unfinished sweep"):
        write_report([whole], tmp_path / "out", console=QUIET)
    assert json.loads((whole / "sweep.json").read_text())["split"] == "tuning"


def test_a_sweep_of_another_version_is_refused(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "x")
    about = json.loads((sweep / "sweep.json").read_text())
    del about["format"]
    write_json(sweep / "sweep.json", about)
    with pytest.raises(UserError, match="another version"):
        write_report([sweep], tmp_path / "out", console=QUIET)


def test_the_control_of_an_episode_in_rounds_reads_in_rounds() -> None:
    assert control_of(FAST).early_exit == Rounds()
    assert control_of(replace(DEFAULT, advantage=ZScore())) == control_of(DEFAULT)
