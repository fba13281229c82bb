"""A run under a live progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from grpo_tta.backbones.base import Backbone
from grpo_tta.bench.runner import run
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
    """`runner.run` into `out`, with a bar that counts images."""
    total = sum(len(task.image_ids) for task in tasks)
    columns = (
        TextColumn("{task.description:<16}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("images"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        line = bar.add_task("starting", total=total)
        run(backbone, tasks, methods, out, settings, lambda t, n: bar.update(line, advance=n, description=t), timed=timed)
