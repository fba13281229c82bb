"""`grpo-tta report`: tables, tests and a page from records. Heavy imports happen inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grpo_tta.cli.options import make_console


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs. Several (tasks, seeds, shards) are read together.")],
    out: Annotated[Path, typer.Option(help="Folder of the report.")],
    reference: Annotated[
        str, typer.Option(help="Method that the others are compared with. Default: grpo-tta, or else the first but zero-shot.")
    ] = "",
    photos_root: Annotated[
        Path | None, typer.Option(help="Folder of the photographs of the photos suite, to show them in the gallery.")
    ] = None,
) -> None:
    """Turn records into tables, paired tests and one self-contained HTML page."""
    from grpo_tta.report.html import write_report

    write_report(runs, out, reference=reference, photos_root=photos_root, console=make_console())
