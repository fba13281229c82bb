"""All the runs of one table: several seeds, and fewer images for methods that are too expensive for all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from PIL import Image
from rich.console import Console

from grpo_tta.backbones.base import Backbone
from grpo_tta.bench.progress import run_with_progress
from grpo_tta.bench.records import part_path
from grpo_tta.bench.runner import open_run, task_policy
from grpo_tta.bench.runs import RunSettings, check_seeds
from grpo_tta.bench.workers import run_workers
from grpo_tta.data.tasks import Task, check_limit
from grpo_tta.engine.encode import encode_for
from grpo_tta.engine.interface import Method
from grpo_tta.errors import counted
from grpo_tta.images.read import to_rgb

EXPENSIVE = 64.0
"""Passes per image above which a method is expensive; a backward pass counts as two forward passes."""


@final
@dataclass(frozen=True)
class TablePlan:
    """
    Attributes:
        seeds: of the runs. One seed goes into the folder itself, several into seed-N below it.
        expensive_limit: images per task for `expensive_methods` (`RunSettings.first_only`); None for all.
        workers: commands that do the work, each on a share of the tasks of the same runs. With none it is done here.
    """

    seeds: Sequence[int] = (0,)
    expensive_limit: int | None = None
    workers: Sequence[Sequence[str]] = ()

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        check_limit(self.expensive_limit, "--limit-heavy")


def seed_folder(out: Path, seed: int) -> Path:
    return out / f"seed-{seed}"


def expensive_methods(
    backbone: Backbone, task: Task, methods: Sequence[Method], settings: RunSettings, above: float = EXPENSIVE
) -> list[str]:
    """Methods that take more than `above` passes per image, as they count them on one image of a task.

    A method that fails on the image is not among them; the run records why.
    """
    readable = _first_readable(task)
    if readable is None:
        return []
    image, name = readable
    policy = task_policy(backbone, task)
    found = []
    for method in methods:
        # each with a pass of its own: a method that fails must not hide what the others cost
        with contextlib.suppress(Exception):
            batch = encode_for([method], policy, [image], (name,), settings.views, settings.seed)
            forwards, backwards = method(policy, batch, {})[0].cost.of(0)
            if forwards + 2 * backwards > above:
                found.append(method.name)
    return found


def _first_readable(task: Task) -> tuple[Image.Image, str] | None:
    for number, name in enumerate(task.image_ids):
        with contextlib.suppress(Exception):
            return to_rgb(task.load(number)[0]), name
    return None


def run_table(
    backbone: Backbone,
    tasks: Sequence[Task],
    methods: Sequence[Method],
    out: Path,
    settings: RunSettings,
    console: Console,
    plan: TablePlan,
) -> list[Path]:
    """Runs one seed after the other, each an ordinary run in a folder of its own; methods are timed in the first alone.

    Args:
        settings: of every run, but for the seed.

    Returns:
        The folders of the runs.

    Raises:
        UserError: a worker failed, or as `runner.run`.
    """
    if plan.expensive_limit is not None:
        expensive = expensive_methods(backbone, tasks[0], methods, settings)
        settings = replace(settings, first_only=dict.fromkeys(expensive, plan.expensive_limit))
        if expensive:
            limit, names = plan.expensive_limit, ", ".join(expensive)
            console.print(
                f"At most {counted(limit, 'image')} per task for {names} (over {EXPENSIVE:.0f} passes each).", markup=False
            )
    several = len(plan.seeds) > 1
    runs = [(seed_folder(out, seed) if several else out, replace(settings, seed=seed)) for seed in plan.seeds]
    folders = [folder for folder, _ in runs]
    if plan.workers:
        for number, (folder, of_seed) in enumerate(runs):  # timed here, while the machine does nothing else
            open_run(backbone, tasks, methods, folder, of_seed, timed=number == 0)
        run_workers(plan.workers, _parts(folders, tasks, settings.chunk), console)
        return folders
    for number, (folder, of_seed) in enumerate(runs):
        if several:
            console.print(f"Seed {of_seed.seed}, {number + 1} of {len(runs)}")
        run_with_progress(backbone, tasks, methods, folder, of_seed, console, timed=number == 0)
    return folders


def _parts(folders: Sequence[Path], tasks: Sequence[Task], chunk: int) -> list[Path]:
    """The files that whole runs consist of."""
    return [
        part_path(folder, task.name, index)
        for folder in folders
        for task in tasks
        for index in range(-(-len(task.image_ids) // chunk))
    ]
