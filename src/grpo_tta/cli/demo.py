"""The main job on the embedded default: all presets and controls on the nano suite, a table, a figure and records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from grpo_tta.backbones.base import Backbone
from grpo_tta.bench.records import read_records, write_json
from grpo_tta.bench.runner import RunSettings, run
from grpo_tta.data.tasks import SHIFTED_MEAN, Task
from grpo_tta.engine.interface import Method
from grpo_tta.report.demo_figure import demo_figure
from grpo_tta.report.summary import paired_difference, summarize


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
    """Runs into `out` under a live progress bar, one step an image; `timed` as in `benchmark.run`."""
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


def _cell(entry: dict[str, Any], best: bool) -> str:
    low, high = entry["ci95"]
    text = f"{100 * entry['accuracy']:.1f} [dim]{100 * low:.0f}–{100 * high:.0f}[/dim]"
    return f"[bold]{text}[/bold]" if best else text


def print_table(summary: dict[str, Any], cost: dict[str, dict[str, float]], console: Console) -> None:
    """Accuracy in percent with its 95 % interval, per task and method, and what each costs."""
    names = list(summary["methods"])
    table = Table(title="Top-1 accuracy in % with 95 % interval", header_style="bold", title_justify="left")
    table.add_column("task", no_wrap=True)
    table.add_column("kind", style="dim", no_wrap=True)
    table.add_column("n", justify="right")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for task in summary["tasks"]:
        top = max(entry["accuracy"] for entry in task["methods"].values())
        cells = [_cell(task["methods"][name], task["methods"][name]["accuracy"] == top) for name in names]
        table.add_row(task["name"], task["kind"], str(task["n"]), *cells)
    table.add_section()
    if means := summary["shifted_mean"]:
        top = max(entry["accuracy"] for entry in means.values())
        count = str(next(iter(means.values()))["tasks"])
        cells = [_cell(means[name], means[name]["accuracy"] == top) for name in names]
        table.add_row("[bold]shifted mean[/bold]", f"{count} tasks", "", *cells)
        table.add_section()
    passes = [fmean(task["methods"][name]["forwards"] for task in summary["tasks"]) for name in names]
    table.add_row("forward passes", "an image", "", *[f"{mean:.0f}" for mean in passes])
    for key, title, unit in (("ms", "milliseconds", "an image"), ("peak_memory_mb", "peak memory", "MB")):
        values = [cost.get(name, {}).get(key) for name in names]
        table.add_row(title, unit, "", *["?" if value is None else f"{value:.1f}" for value in values])
    console.print(table)


def print_differences(rows: pd.DataFrame, method: str, console: Console) -> None:
    """The paired differences of `method` to every other method, in points of the shifted mean."""
    if not rows["kind"].isin(SHIFTED_MEAN).any():
        return
    for other in rows["method"].drop_duplicates():
        if other != method:
            found = paired_difference(rows, method, other)
            low, high = (100 * x for x in found["ci95"])
            console.print(
                f"{method} − {other}: [bold]{100 * found['difference']:+.1f}[/bold] points on the shifted mean "
                f"[dim](95 % interval {low:+.1f} to {high:+.1f}, same images)[/dim]"
            )


def run_demo(
    backbone: Backbone,
    tasks: Sequence[Task],
    methods: Sequence[Method],
    out: Path,
    settings: RunSettings,
    split: str,
    console: Console,
) -> None:
    """Runs, prints the table and writes `summary.json`, `demo.png` and the records into `out`."""
    run_with_progress(backbone, tasks, methods, out, settings, console)
    rows = read_records([out])
    cost = json.loads((out / "run.json").read_text())["cost"]
    summary = summarize(rows, cost)
    write_json(out / "summary.json", summary)
    print_table(summary, cost, console)
    print_differences(rows, "grpo-tta", console)
    demo_figure(rows, summary, tasks, out / "demo.png")
    errors = int(rows["error"].notna().sum())
    if errors:
        console.print(f"[red]{errors} rows hold an error; see the column `error` of the records.[/red]")
    console.print(
        f"\n{len(rows)} records in {out / 'records'}, summary in {out / 'summary.json'}, figure in {out / 'demo.png'}.\n"
        f"[dim]{split} split, seed {settings.seed}, model {backbone.name}; milliseconds and memory timed apart, each method "
        f"alone, {settings.batch} images in flight.[/dim]"
    )
