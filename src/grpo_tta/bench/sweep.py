"""`grpo-tta sweep`: one setting varied at a time, on the tuning split alone; every run group of it is an ordinary run.

Settings that share the model, the prompts and the kind of views share one run, in which views, decode and frozen pass are
made once an image. `sweep.json` says which method of which run stands for which value of which axis.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from grpo_tta.backbones.base import Backbone, load_backbone
from grpo_tta.bench.progress import run_with_progress
from grpo_tta.bench.records import FORMAT, check_format, write_json
from grpo_tta.bench.runs import RunSettings, check_same, check_seeds
from grpo_tta.bench.sweep_axes import Axis, Setting
from grpo_tta.bench.sweep_plan import RunGroup, SweepPlan, make_plan
from grpo_tta.config.serialise import to_plain
from grpo_tta.data.tasks import Task
from grpo_tta.engine.interface import Method
from grpo_tta.errors import UserError, counted
from grpo_tta.method.controls import reward_argmax_method
from grpo_tta.method.grpo import grpo_method
from grpo_tta.method.parse import show


def prompted(tasks: Sequence[Task], templates: str) -> list[Task]:
    """Tasks under other templates, as `Setting.templates` names them."""
    if templates == "task":
        return list(tasks)
    if templates == "ensemble":
        return [replace(task, prompted_by="ensemble") for task in tasks]
    return [replace(task, template=templates, prompted_by="template") for task in tasks]


def run_group_folder(out: Path, run_group: int, seed: int) -> Path:
    return out / f"group-{run_group}" / f"seed-{seed}"


def describe_sweep(base: Setting, plan: SweepPlan, tasks: Sequence[Task], seeds: Sequence[int]) -> dict[str, Any]:
    """What `sweep.json` holds."""
    kinds: dict[str, Literal["number", "choice"]] = {
        point.axis: "number" if all(_is_number(p.value) for p in plan.points if p.axis == point.axis) else "choice"
        for point in plan.points
    }
    points = [
        {
            "axis": point.axis,
            "kind": kinds[point.axis],
            "value": show(point.value),
            "method": point.method,
            "control": point.control,
            "run_group": point.run_group,
            "base": point.is_base,
        }
        for point in plan.points
    ]
    run_groups = [
        {"model": run_group.model, "templates": run_group.templates, "views": to_plain(run_group.views)}
        for run_group in plan.run_groups
    ]
    return {
        "format": FORMAT,
        "base": to_plain(base),
        "split": "tuning",
        "seeds": list(seeds),
        "tasks": {task.name: len(task.image_ids) for task in tasks},
        "points": points,
        "run_groups": run_groups,
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _methods(run_group: RunGroup) -> Iterator[Method]:
    for name, grpo in run_group.methods.items():
        yield grpo_method(grpo, name)
    for name, grpo in run_group.controls.items():
        yield reward_argmax_method(grpo, name)


def run_sweep(
    base: Setting,
    axes: Sequence[Axis],
    tasks: Sequence[Task],
    out: Path,
    settings: RunSettings,
    console: Console,
    *,
    seeds: Sequence[int] = (0,),
    device: str = "auto",
    download: bool = False,
) -> None:
    """Runs all run groups under all seeds into `out`; an existing folder with the same plan is resumed.

    Args:
        tasks: of the tuning split.
        settings: of every run, but for the seed and the kind of views.

    Raises:
        UserError: no seed, a value that fits neither the others nor the model, or a folder that holds something else.
    """
    check_seeds(seeds)
    plan = make_plan(base, axes, tasks)
    _open(out, json.loads(json.dumps(describe_sweep(base, plan, tasks, seeds))))
    runs = sum(len(run_group.methods) for run_group in plan.run_groups)
    axes_named = "1 axis" if len(axes) == 1 else f"{len(axes)} axes"
    groups_named = counted(len(plan.run_groups), "run group")
    console.print(f"{counted(len(plan.points), 'point')} on {axes_named}: {counted(runs, 'setting')} in {groups_named}")
    for model in dict.fromkeys(run_group.model for run_group in plan.run_groups):
        backbone = load_backbone(model, device=device, download=download)
        for number, run_group in enumerate(plan.run_groups):
            if run_group.model != model:
                continue
            methods = list(_methods(run_group))
            _check_model(backbone, methods)
            for seed in seeds:
                console.print(f"Run group {number + 1} of {len(plan.run_groups)}, seed {seed}: {len(methods)} methods")
                run_with_progress(
                    backbone,
                    prompted(tasks, run_group.templates),
                    methods,
                    run_group_folder(out, number, seed),
                    replace(settings, seed=seed, views=run_group.views),
                    console,
                    timed=False,
                )


def _check_model(backbone: Backbone, methods: Sequence[Method]) -> None:
    """A setting that the model does not bear would spoil the pass that all the others share."""
    for method in methods:
        try:
            method.cached_blocks(backbone)
        except UserError as error:
            raise UserError(f"{method.name}: {error}") from None


def _open(out: Path, description: dict[str, Any]) -> None:
    """Starts a sweep's folder or checks that an existing one holds the same sweep."""
    path = out / "sweep.json"
    if path.is_file():
        found = json.loads(path.read_text())
        check_format(out, found)
        check_same("sweep", out, found, description)
    elif (out / "run.json").is_file() or (out / "records").exists():
        raise UserError(f"{out} holds a run, not a sweep; name another --out.")
    else:
        write_json(path, description)
