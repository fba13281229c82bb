"""The runner: same records again, resume without loss, errors as rows."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from grpo_tta.backbones.base import Backbone
from grpo_tta.baselines.registry import choose_methods
from grpo_tta.bench.records import TIME_AND_MEMORY, read_records, write_json
from grpo_tta.bench.runner import run, stream_order
from grpo_tta.bench.runs import RunSettings
from grpo_tta.bench.workers import run_workers
from grpo_tta.data.tasks import Task, nano_tasks
from grpo_tta.engine.interface import Method
from grpo_tta.errors import UserError
from grpo_tta.method.online import stream_method
from grpo_tta.method.online_settings import ONLINE

FAST = ("zero-shot", "reward-argmax", "grpo-tta")


def table(folder: Path) -> pd.DataFrame:
    rows = read_records([folder]).drop(columns=list(TIME_AND_MEMORY))
    return rows.sort_values(["task", "image_id", "method"], ignore_index=True)


def go(
    backbone: Backbone, out: Path, *, limit: int = 12, tasks: tuple[str, ...] = ("fog", "digits"), **settings: object
) -> None:
    run(backbone, nano_tasks(tasks, "tuning", limit), choose_methods(FAST), out, RunSettings(**settings))  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_records(nano_backbone: Backbone, tmp_path: Path) -> None:
    go(nano_backbone, tmp_path / "a", batch=4)
    go(nano_backbone, tmp_path / "b", batch=4)
    pd.testing.assert_frame_equal(table(tmp_path / "a"), table(tmp_path / "b"))
    assert len(table(tmp_path / "a")) == 2 * 12 * len(FAST)


def test_an_existing_run_is_resumed_and_another_refused(nano_backbone: Backbone, tmp_path: Path) -> None:
    go(nano_backbone, tmp_path / "x", chunk=4)
    whole = table(tmp_path / "x")
    parts = sorted((tmp_path / "x" / "records").iterdir())
    parts[1].unlink()
    kept = {p: p.stat().st_mtime_ns for p in parts if p.exists()}
    go(nano_backbone, tmp_path / "x", chunk=4)
    pd.testing.assert_frame_equal(table(tmp_path / "x"), whole)
    assert all(p.stat().st_mtime_ns == when for p, when in kept.items())
    with pytest.raises(UserError, match=r"holds another run \(seed"):
        go(nano_backbone, tmp_path / "x", chunk=4, seed=1)


def test_a_folder_of_another_version_is_neither_resumed_nor_read(nano_backbone: Backbone, tmp_path: Path) -> None:
    go(nano_backbone, tmp_path / "x", limit=2, tasks=("fog",))
    info = json.loads((tmp_path / "x" / "run.json").read_text())
    assert info["sources"]["fog"] == {"suite": "nano", "task": "fog", "split": "tuning", "limit": 2}
    write_json(tmp_path / "x" / "run.json", {**info, "format": 1})
    with pytest.raises(UserError, match="written by another version"):
        go(nano_backbone, tmp_path / "x", limit=2, tasks=("fog",))
    with pytest.raises(UserError, match="written by another version"):
        read_records([tmp_path / "x"])


def test_where_images_lie_is_not_what_a_run_is(nano_backbone: Backbone, tmp_path: Path) -> None:
    (task,) = nano_tasks(["fog"], "tuning", 2)
    methods = choose_methods(["zero-shot"])
    for source in ({"data": "here"}, {"data": "./here"}):
        run(nano_backbone, [replace(task, source=source)], methods, tmp_path / "x", RunSettings(), timed=False)


def test_a_bad_image_is_a_row_and_the_rest_goes_on(nano_backbone: Backbone, tmp_path: Path) -> None:
    (task,) = nano_tasks(["fog"], "tuning", 6)

    def load(number: int) -> tuple[Image.Image, int]:
        if number == 2:
            raise UserError("x.jpg: truncated or damaged; copy it again.")
        return task.load(number)

    run(nano_backbone, [replace(task, load=load)], choose_methods(["zero-shot", "grpo-tta"]), tmp_path / "x", RunSettings())
    rows = read_records([tmp_path / "x"])
    failed = rows[rows["error"].notna()]
    assert failed["image_id"].tolist() == ["nano/fog/tuning/0002"] * 2
    assert failed["error"].str.contains("truncated").all()
    assert failed["prediction"].eq(-1).all()
    assert len(rows) == 12


def test_a_method_that_raises_on_one_image_records_it(nano_backbone: Backbone, tmp_path: Path) -> None:
    (task,) = nano_tasks(["fog"], "tuning", 6)
    good = choose_methods(["zero-shot"])[0]

    def fails(policy, batch, state):  # type: ignore[no-untyped-def]
        if any(name.endswith("0003") for name in batch.image_ids):
            raise RuntimeError("no luck")
        return good.run(policy, batch, state)

    bad: Method = replace(good, name="unlucky", run=fails)
    run(nano_backbone, [task], [good, bad], tmp_path / "x", RunSettings(batch=2))
    rows = read_records([tmp_path / "x"])
    failed = rows[rows["error"].notna()]
    assert failed[["method", "image_id", "error"]].values.tolist() == [
        ["unlucky", "nano/fog/tuning/0003", "RuntimeError: no luck"]
    ]
    assert len(rows) == 12


def test_a_method_with_state_resumes_where_it_stopped(nano_backbone: Backbone, tmp_path: Path) -> None:
    tasks = nano_tasks(["stream-zipf"], "tuning", 12)
    open_gate = stream_method(replace(ONLINE, gate=None), "grpo-tta-online")  # a dozen images say nothing to the gate
    methods = [*choose_methods(["zero-shot"]), open_gate]
    run(nano_backbone, tasks, methods, tmp_path / "x", RunSettings(chunk=4))
    whole = table(tmp_path / "x")
    (tmp_path / "x" / "records" / "stream-zipf--000002.parquet").unlink()
    run(nano_backbone, tasks, methods, tmp_path / "x", RunSettings(chunk=4))
    pd.testing.assert_frame_equal(table(tmp_path / "x"), whole)
    run(nano_backbone, tasks, methods, tmp_path / "once", RunSettings(chunk=12))
    state = load_file(tmp_path / "x" / "state" / "stream-zipf--000002" / "grpo-tta-online.safetensors")
    assert float(state["prior.count"]) == 12  # it has seen the chunks before, too
    once = table(tmp_path / "once")
    assert (once["confidence"] - whole["confidence"]).abs().max() > 1e-3  # its minibatches were of 4 images, now of 12
    with pytest.raises(UserError, match="cannot be sharded"):
        run(nano_backbone, tasks, methods, tmp_path / "y", RunSettings(shard=(0, 2)))


def test_order_is_seeded_except_in_streams() -> None:
    (fog,) = nano_tasks(["fog"], "tuning", 50)
    stream: Task = nano_tasks(["stream-zipf"], "tuning", 50)[0]
    assert stream_order(fog, 0) == stream_order(fog, 0) != stream_order(fog, 1)
    assert sorted(stream_order(fog, 0)) == list(range(50))
    assert stream_order(stream, 1) == list(range(50))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match="Unknown method 'x'; choose from"):
        choose_methods(["x"])
    with pytest.raises(UserError, match="Unknown task 'x'; choose from"):
        nano_tasks(["x"])
    with pytest.raises(UserError, match="Unknown split 'x'"):
        nano_tasks(None, "x")
    with pytest.raises(UserError, match="limit of 0"):
        nano_tasks(None, "tuning", 0)
    with pytest.raises(UserError, match="Shard 2/2"):
        RunSettings(shard=(2, 2))


def test_workers_share_the_tasks_and_change_nothing(tmp_path: Path) -> None:
    words = ["--methods", "view-mean,tent", "--tasks", "sketch,colours,fog", "--limit", "5", "--seeds", "0,1", "--chunk", "4"]
    for name, extra in (("one", []), ("two", ["--workers", "2"])):
        command = [sys.executable, "-m", "grpo_tta", "bench", *words, *extra, "--out", str(tmp_path / name)]
        subprocess.run(command, check=True, capture_output=True)
    for seed in ("seed-0", "seed-1"):
        one, two = (table(tmp_path / name / seed) for name in ("one", "two"))
        assert len(one) == 3 * 3 * 5
        keys = ["task", "method", "image_id", "order", "label", "prediction"]
        assert one[keys].equals(two[keys])


def test_a_worker_that_fails_is_reported_with_its_last_line(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", "raise SystemExit('no luck')"], [sys.executable, "-c", "import time; time.sleep(60)"]]
    with pytest.raises(UserError, match="no luck"):
        run_workers(commands, [tmp_path / "never"], Console(quiet=True), poll=0.05)


def test_a_folder_is_bound_to_its_images(nano_backbone: Backbone, tmp_path: Path) -> None:
    """The same task, classes and count under another split: the old rows must not answer for the new ones."""
    methods = choose_methods(["zero-shot"])
    run(nano_backbone, nano_tasks(["fog"], "tuning", 4), methods, tmp_path / "x", RunSettings(), timed=False)
    with pytest.raises(UserError, match=r"another run \(images"):
        run(nano_backbone, nano_tasks(["fog"], "reporting", 4), methods, tmp_path / "x", RunSettings(), timed=False)
    task = replace(nano_tasks(["fog"], "tuning", 4)[0], version="labels corrected")
    with pytest.raises(UserError, match=r"another run \(images"):
        run(nano_backbone, [task], methods, tmp_path / "x", RunSettings(), timed=False)


def test_an_expensive_method_sees_all_classes_of_images_that_stand_class_by_class(
    nano_backbone: Backbone, tmp_path: Path
) -> None:
    (task,) = nano_tasks(["fog"], "tuning", 12)
    settings = RunSettings(first_only={"view-mean": 3})
    methods = choose_methods(["zero-shot", "view-mean"])
    run(nano_backbone, [replace(task, by_class=True)], methods, tmp_path / "x", settings, timed=False)
    rows = read_records([tmp_path / "x"])
    assert sorted(rows[rows["method"] == "view-mean"]["image_id"].str[-2:]) == ["00", "04", "08"]


def test_what_cannot_run_leaves_no_folder_behind(nano_backbone: Backbone, tmp_path: Path) -> None:
    (task,) = nano_tasks(["fog"], "tuning", 2)
    with pytest.raises(UserError, match="at least two"):
        run(nano_backbone, [replace(task, classes=("star",))], choose_methods(["zero-shot"]), tmp_path / "x", RunSettings())
    assert not (tmp_path / "x").exists()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="nothing can be written there"):
        run(nano_backbone, [task], choose_methods(["zero-shot"]), tmp_path / "file", RunSettings())
    with pytest.raises(UserError, match="from 0 on"):
        RunSettings(seed=-1)
