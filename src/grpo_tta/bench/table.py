"""The whole table in one command: several seeds, and fewer images for the methods that are too dear for all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image
from rich.console import Console

from grpo_tta.backbones.base import Backbone
from grpo_tta.bench.records import part_path
from grpo_tta.bench.runner import RunSettings, check_seeds, open_run, task_policy
from grpo_tta.bench.workers import run_workers
from grpo_tta.cli.demo import run_with_progress
from grpo_tta.data.tasks import Task
from grpo_tta.engine.interface import Method, look
from grpo_tta.errors import UserError
from grpo_tta.images.read import to_rgb

DEAR = 64.0
"""Passes an image above which a method is dear; a backward pass counts as two forward passes."""


def seed_folder(out: Path, seed: int) -> Path:
    return out / f"seed-{seed}"


def dear_methods(
    backbone: Backbone, task: Task, methods: Sequence[Method], settings: RunSettings, above: float = DEAR
) -> list[str]:
    """Methods that take more than `above` passes an image, as they count them on one image of a task.

    A method that fails on the image is not dear; the run will tell why.
    """
    readable = _first_readable(task)
    if readable is None:
        return []
    image, name = readable
    policy = task_policy(backbone, task)
    found = []
    for method in methods:
        # each with a pass of its own: what one of them asks for in vain must not hide what the others cost
        with contextlib.suppress(Exception):
            batch = look(policy, [image], (name,), settings.views, settings.seed, method)
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
    *,
    seeds: Sequence[int],
    dear_limit: int | None = None,
    workers: Sequence[Sequence[str]] = (),
) -> list[Path]:
    """Runs one seed after the other, each an ordinary run in a folder of its own; methods are timed in the first alone.

    Args:
        settings: of every run, but for the seed.
        seeds: of the runs. One seed goes into `out` itself, several into `out`/seed-N.
        dear_limit: N images of a task are all that `dear_methods` get (`RunSettings.first_only`); None for no such limit.
        workers: commands that do the work, each a share of the tasks of the same runs; none does it here.

    Returns:
        The folders of the runs.

    Raises:
        UserError: no seed, a seed twice, a limit below one, a worker that failed, or as `benchmark.run`.
    """
    check_seeds(seeds)
    if dear_limit is not None:
        if dear_limit < 1:
            raise UserError(f"A limit of {dear_limit} images leaves nothing to do; set --limit-heavy to at least 1.")
        dear = dear_methods(backbone, tasks[0], methods, settings)
        settings = replace(settings, first_only=dict.fromkeys(dear, dear_limit))
        if dear:
            console.print(f"At most {dear_limit} images a task for {', '.join(dear)} (over {DEAR:.0f} passes each).")
    folders = [out] if len(seeds) == 1 else [seed_folder(out, seed) for seed in seeds]
    runs = [(folder, replace(settings, seed=seed), seed == seeds[0]) for seed, folder in zip(seeds, folders, strict=True)]
    if workers:
        for folder, of_seed, timed in runs:  # timed here, while the machine does nothing else
            open_run(backbone, tasks, methods, folder, of_seed, timed=timed)
        parts = [
            part_path(folder, task.name, index)
            for folder in folders
            for task in tasks
            for index in range(-(-len(task.image_ids) // settings.chunk))
        ]
        run_workers(workers, parts, console)
        return folders
    for number, (folder, of_seed, timed) in enumerate(runs):
        if len(seeds) > 1:
            console.print(f"Seed {of_seed.seed}, {number + 1} of {len(seeds)}")
        run_with_progress(backbone, tasks, methods, folder, of_seed, console, timed=timed)
    return folders
