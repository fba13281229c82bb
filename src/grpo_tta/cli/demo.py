"""The main job on the embedded default: all presets and controls on the nano suite, a table, a figure and records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from grpo_tta.backbones.base import Backbone
from grpo_tta.bench.progress import run_with_progress
from grpo_tta.bench.records import read_records, read_run, write_json
from grpo_tta.bench.runs import RunSettings
from grpo_tta.data.tasks import Task
from grpo_tta.engine.interface import Method
from grpo_tta.errors import counted
from grpo_tta.report.demo_figure import demo_figure
from grpo_tta.report.summary import summarize
from grpo_tta.report.terminal import print_differences, print_errors, summary_table


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
    cost = read_run(out)["cost"]
    summary = summarize(rows, cost)
    write_json(out / "summary.json", summary)
    summary_table(summary, cost).print(console)
    print_differences(rows, "grpo-tta", console)
    demo_figure(rows, summary, tasks, out / "demo.png", backbone.name)
    print_errors(int(rows["error"].notna().sum()), "the column `error` of the records", console)
    where = f"\n{counted(len(rows), 'record')} in {out / 'records'}, summary in {out / 'summary.json'}, "
    where += f"figure in {out / 'demo.png'}.\n"
    how = (
        f"{split} split, seed {settings.seed}, model {backbone.name}. Milliseconds and memory were timed apart, each method "
        f"alone, {counted(settings.batch, 'image')} in flight."
    )
    console.print(Text(where).append(how, "dim"))
