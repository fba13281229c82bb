"""`grpo-tta models`: what is known, what is on this machine, and what each tunes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from grpo_tta.cli.options import make_console

if TYPE_CHECKING:
    from grpo_tta.backbones.catalogue import KnownModel


def models(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
    cached: Annotated[bool, typer.Option("--cached", help="Only models that load without a download.")] = False,
) -> None:
    """List the models that --model knows by name: which are on this machine, and what can be tuned in each."""
    from grpo_tta.backbones.catalogue import known_models

    found = [entry for entry in known_models() if entry.cached or not cached]
    if as_json:
        typer.echo(json.dumps([_plain(entry) for entry in found], indent=2))
    else:
        _print(found)


def _plain(entry: KnownModel) -> dict[str, object]:
    return {
        "name": entry.name,
        "library": entry.library,
        "family": entry.family,
        "tunes": list(entry.tunes),
        "norms": entry.norms,
        "cached": entry.cached,
        "missing": list(entry.missing),
    }


def _print(found: list[KnownModel]) -> None:
    from rich.text import Text

    from grpo_tta.report.columns import Column, FittedTable

    columns = [
        Column("model", 40, key=True),  # shorter, few names could be copied in one piece
        Column("library", 12, leave_out=2),
        Column("family", 12, leave_out=1),
        Column("tunes", 12),
        Column("on this machine", 10),
    ]
    table = FittedTable(columns, elsewhere="--json")
    for entry in found:
        sets = ", ".join(f"norm ({entry.norms})" if name == "norm" else name for name in entry.tunes)
        state = Text("yes", "bold") if entry.cached else Text(f"no {', '.join(entry.missing)}", "dim")
        table.add_row(entry.name, entry.library, entry.family, sets, state)
    console = make_console()
    table.print(console)
    console.print(
        "[dim]Others: hf-hub:ORG/NAME of open_clip's hub; any CLIP, SigLIP or SigLIP 2 as ORG/NAME in transformers' format; "
        "folders in either format. What is not on this machine is fetched with --download only.[/dim]"
    )
    console.print(
        "[dim]nano-clip and photo-clip read prompts of 24 tokens; which benchmarks fit them is said by: grpo-tta datasets[/dim]"
    )
