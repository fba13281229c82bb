"""A run under a live progress bar; without a terminal, a line on standard error every half minute."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from grpo_tta.backbones.base import Backbone
from grpo_tta.bench import runner
from grpo_tta.bench.pace import Lines, Pace
from grpo_tta.bench.runs import RunSettings
from grpo_tta.data.tasks import Task
from grpo_tta.engine.interface import Method


def run_with_progress(
    backbone: Backbone,
    tasks: Sequence[Task],
    methods: Sequence[Method],
    out: Path,
    settings: RunSettings,
    console: Console,
    *,
    timed: bool = True,
) -> None:
    """`runner.run` into `out`, with a bar that counts images batch by batch."""
    runner.open_run(backbone, tasks, methods, out, settings, timed=timed)  # what is timed alone is no part of the rate
    with progress(_images(tasks, settings), console) as advance:
        runner.run(backbone, tasks, methods, out, settings, advance, timed=False)


def _images(tasks: Sequence[Task], settings: RunSettings) -> int:
    """Of this run's share of the tasks and of their parts."""
    first, step = settings.task_share
    shard, shards = settings.shard
    sizes = [len(task.image_ids) for task in tasks[first::step]]
    starts = [range(shard * settings.chunk, size, shards * settings.chunk) for size in sizes]
    return sum(min(settings.chunk, size - start) for size, of_task in zip(sizes, starts, strict=True) for start in of_task)


@contextlib.contextmanager
def progress(total: int, console: Console, *, clock: Callable[[], float] = time.monotonic) -> Iterator[runner.Progress]:
    """Gives what `runner.run` reports to."""
    if not console.is_terminal:
        lines = Lines(total, clock, lambda text: print(text, file=sys.stderr, flush=True))
        yield lambda task, images, before: lines.advance(images, before=before)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=8),  # all of it fits 80 columns
        MofNCompleteColumn(),
        TextColumn("images, {task.fields[rate]}", markup=False),
        TextColumn("{task.fields[left]}", markup=False),
    )
    pace = Pace(total, clock)
    with Progress(*columns, console=console) as bar:
        line = bar.add_task("starting", total=total, rate=pace.rate(), left="")

        def advance(task: str, images: int, before: bool) -> None:
            pace.advance(images, before=before)
            bar.update(line, completed=pace.count, description=_short(task), rate=pace.rate(), left=pace.left())

        yield advance


def _short(task: str) -> str:
    """A task's name that leaves room for the numbers in 80 columns."""
    return task if len(task) <= 16 else f"{task[:15]}…"
