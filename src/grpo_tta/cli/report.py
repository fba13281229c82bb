"""`grpo-tta report`: tables, tests and a page from records. Heavy imports happen inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grpo_tta.cli.options import make_console


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs. Several (tasks, seeds, shards) are read together.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report. Default: the folder report in that of the first run.")
    ] = None,
    reference: Annotated[
        str, typer.Option(help="Method that the others are compared with. Default: grpo-tta, or else the first but zero-shot.")
    ] = "",
    photos_root: Annotated[
        Path | None,
        typer.Option(help="Folder of the photographs of photos, imagenet-sample and streams, to show them on the page."),
    ] = None,
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Show images on the page, your own among them, or none.")
    ] = True,
    leaderboard: Annotated[
        Path | None, typer.Option(help="Markdown page that gets the leaderboard, between its two marks or as a new page.")
    ] = None,
    machine: Annotated[
        str, typer.Option(help="What the milliseconds were measured on, for the leaderboard. Without it none are shown there.")
    ] = "",
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser at the end.")] = False,
) -> None:
    """Turn records into tables, paired tests and one self-contained HTML page."""
    from grpo_tta.report.html import write_report

    page = write_report(
        runs,
        out or runs[0] / "report",
        reference=reference,
        photos_root=photos_root,
        images=images,
        console=make_console(),
    )
    if leaderboard:
        from grpo_tta.report.leaderboard import write_leaderboard

        write_leaderboard(runs, leaderboard, machine=machine)
    if show:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
