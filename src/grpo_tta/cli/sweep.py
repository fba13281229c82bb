"""`grpo-tta sweep`: one setting varied at a time. Heavy imports happen inside."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, final

import typer

from grpo_tta.cli.command import command_of
from grpo_tta.cli.options import (
    Assignments,
    Batch,
    Device,
    Download,
    Part,
    Preset,
    Threads,
    make_console,
    read_seeds,
    settings_of,
    split_list,
)
from grpo_tta.errors import UserError


@final
@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What `grpo-tta sweep` takes."""

    vary: Annotated[
        list[str],
        typer.Option(
            help="NAME=V1,V2,… of a setting (dotted where it is part of another), of model or of templates. "
            "NAME=V1,V2@OTHER=V changes OTHER along the whole axis. May be repeated."
        ),
    ] = field(default_factory=list)
    axes: Annotated[str, typer.Option(help="all, or comma-separated axes of the built-in plan.")] = ""
    preset: Preset = "default"
    assignments: Assignments = field(default_factory=list)
    tasks: Annotated[str, typer.Option(help="Comma-separated tasks of the suite. Default: all but the streams.")] = ""
    split: Annotated[str, typer.Option(help="tuning. The reporting split is refused.")] = "tuning"
    model: Annotated[str, typer.Option(help="As in bench. Vary it with --vary model=A,B.")] = "nano-clip"
    seeds: Annotated[str, typer.Option(help="Comma-separated.")] = "0"
    limit: Annotated[int, typer.Option(help="Images per task.")] = 100
    batch: Batch = 16
    chunk: Part = 128
    out: Annotated[Path, typer.Option(help="Folder of the records. An existing sweep is resumed.")] = Path("runs/sweep")
    device: Device = "auto"
    threads: Threads = None
    download: Download = False


@command_of(SweepOptions)
def sweep(options: SweepOptions) -> None:
    """Vary one setting at a time on the tuning split. `report` draws a curve of every axis.

    Every axis starts from the preset, changed by --set.
    """
    from grpo_tta.backbones.hardware import set_threads
    from grpo_tta.bench.runs import RunSettings
    from grpo_tta.bench.sweep import run_sweep
    from grpo_tta.bench.sweep_axes import Setting, choose_axes
    from grpo_tta.data.tasks import nano_tasks

    if options.split != "tuning":
        raise UserError("A sweep tunes, so it runs on the tuning split alone; what it finds is reported with bench.")
    set_threads(options.threads)
    base = Setting(model=options.model, grpo=settings_of(options.preset, options.assignments))
    names = split_list(options.axes) if options.axes else []
    run_sweep(
        base,
        choose_axes(names, options.vary, base.grpo),
        nano_tasks(split_list(options.tasks) if options.tasks else None, "tuning", options.limit),
        options.out,
        RunSettings(batch=options.batch, chunk=options.chunk),
        console := make_console(),
        seeds=read_seeds(options.seeds),
        device=options.device,
        download=options.download,
    )
    out = options.out
    console.print(f"Records in {out}. Next: grpo-tta report {out} --out {out / 'report'}", markup=False)
