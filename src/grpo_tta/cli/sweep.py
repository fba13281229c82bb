"""The command `grpo-tta sweep`. Heavy imports happen inside, as in `cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grpo_tta.cli.options import Batch, Device, Download, Part, make_console, split_list
from grpo_tta.errors import UserError


def read_seeds(text: str) -> list[int]:
    """Comma-separated seeds.

    Raises:
        UserError: one of them is no whole number.
    """
    parts = split_list(text)
    if bad := [part for part in parts if not part.isdecimal()]:
        raise UserError(f"Seed {bad[0]!r} is no whole number; write them with commas between, for example 0,1,2.")
    return [int(part) for part in parts]


def sweep(
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=V1,V2,… of a setting (dotted, for example rewards.content_free), of model or of templates; may be "
            "repeated. NAME=V1,V2@OTHER=V changes OTHER along the whole axis."
        ),
    ] = None,
    axes: Annotated[str, typer.Option(help="all, or comma-separated axes of the built-in plan.")] = "",
    preset: Annotated[str, typer.Option(help="Where every axis starts from: default, fast or paper.")] = "default",
    tasks: Annotated[str, typer.Option(help="Comma-separated tasks of the suite; default: all but the streams.")] = "",
    split: Annotated[str, typer.Option(help="tuning; the reporting split is refused.")] = "tuning",
    model: Annotated[str, typer.Option(help="As in bench; vary it with --vary model=A,B.")] = "nano-clip",
    seeds: Annotated[str, typer.Option(help="Comma-separated.")] = "0",
    limit: Annotated[int, typer.Option(help="Images a task.")] = 100,
    batch: Batch = 16,
    chunk: Part = 128,
    out: Annotated[Path, typer.Option(help="Folder of the records; an existing sweep is resumed.")] = Path("runs/sweep"),
    device: Device = "cpu",
    download: Download = False,
) -> None:
    """Vary one setting at a time on the tuning split; `report` draws a curve of every axis."""
    from grpo_tta.bench.runs import RunSettings
    from grpo_tta.bench.sweep import Setting, choose_axes, run_sweep
    from grpo_tta.data.tasks import nano_tasks
    from grpo_tta.method.settings import PRESETS

    if split != "tuning":
        raise UserError("A sweep tunes, so it runs on the tuning split alone; what it finds is reported with bench.")
    if preset not in PRESETS:
        raise UserError(f"Unknown preset {preset!r}; choose {' or '.join(PRESETS)}.")
    names = split_list(axes) if axes else []
    base = Setting(model=model, grpo=PRESETS[preset])
    run_sweep(
        base,
        choose_axes(names, vary or [], base.grpo),
        nano_tasks(split_list(tasks) if tasks else None, "tuning", limit),
        out,
        RunSettings(batch=batch, chunk=chunk),
        console := make_console(),
        seeds=read_seeds(seeds),
        device=device,
        download=download,
    )
    console.print(f"Records in {out}. Next: grpo-tta report {out} --out {out / 'report'}")
