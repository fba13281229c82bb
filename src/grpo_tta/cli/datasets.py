"""`grpo-tta datasets`: which benchmarks are known, and whether a copy on disk is whole."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, final

import typer

from grpo_tta.cli.command import command_of
from grpo_tta.cli.options import make_console

if TYPE_CHECKING:
    from rich.console import Console

    from grpo_tta.data.public.check import Check

app = typer.Typer(help="List the benchmarks that are known, or check a copy on disk.", no_args_is_help=False)


@app.callback(invoke_without_command=True)
def datasets(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """List the benchmarks that are known, or check a copy on disk."""
    if context.invoked_subcommand is not None:
        return
    rows = known()
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        _print_known(rows, make_console())


@final
@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """What `grpo-tta datasets check` takes."""

    names: Annotated[list[str], typer.Argument(help="Names from 'grpo-tta datasets', or fifteen for all of these.")]
    root: Annotated[Path, typer.Option(help="Folder that holds the benchmarks. For folder, csv and parquet: its own path.")]
    split: Annotated[str, typer.Option(help="reporting (test) or tuning (CoOp's val).")] = "reporting"
    corruptions: Annotated[str, typer.Option(help="Of the -c sets: all, or comma-separated names.")] = "all"
    severities: Annotated[str, typer.Option(help="Of the -c sets: comma-separated, 1 to 5.")] = "5"
    official_split: Annotated[bool, typer.Option("--official-split", help="torchvision's own test split.")] = False
    decode: Annotated[bool, typer.Option(help="Open every image. Without it only names and counts are checked.")] = True
    download: Annotated[bool, typer.Option("--download", help="Let torchvision fetch what it can first.")] = False
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False


@app.command()
@command_of(CheckOptions)
def check(options: CheckOptions) -> None:
    """Verify counts, class order, splits and every image, and say what to download.

    The exit status is 1 if anything is wrong.
    """
    found = _check(options)
    if options.as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=2))
    else:
        for one in found:
            _print_check(one, make_console())
    if any(one.problems for one in found):
        raise typer.Exit(1)


def _check(options: CheckOptions) -> list[Check]:
    """One result per benchmark, under a bar on the terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from grpo_tta.data.public.check import CUSTOM, check_benchmark, check_custom
    from grpo_tta.data.public.load import cells, corruptions_named, names_meant, part_named

    part = part_named(options.split)
    chosen, numbers = corruptions_named(options.corruptions.split(","), options.severities.split(","))
    found = []
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=make_console(stderr=True), transient=True) as bar:
        for name in names_meant(options.names):
            line = bar.add_task(name, total=None)

            def advance(images: int, line: Any = line) -> None:
                bar.update(line, advance=images)

            if name in CUSTOM:
                found.append(check_custom(name, options.root, decode=options.decode, progress=advance))
                continue
            found += [
                check_benchmark(
                    benchmark,
                    options.root,
                    part,
                    decode=options.decode,
                    official=options.official_split,
                    download=options.download,
                    progress=advance,
                )
                for benchmark in cells(name, chosen, numbers)
            ]
    return found


def known() -> list[dict[str, Any]]:
    """What is known, as plain values; classes and images are None where they are the user's own."""
    from grpo_tta.data.public.catalogue import BENCHMARKS, FAMILIES
    from grpo_tta.data.public.check import CUSTOM
    from grpo_tta.data.public.corrupted import CORRUPTIONS, SEVERITIES

    rows: list[dict[str, Any]] = [
        {
            "name": b.name,
            "title": b.title,
            "kind": b.kind,
            "classes": b.classes,
            "images": b.images,
            "published_zero_shot": b.zero_shot,
            "small_models": list(b.small_models),
            "licence": b.licence,
            "source": list(b.source),
            "layout": list(b.layout),
        }
        for b in BENCHMARKS.values()
    ]
    rows += [
        {
            "name": family.name,
            "title": f"{family.title} ({len(CORRUPTIONS)} corruptions, {len(SEVERITIES)} severities)",
            "kind": "shifted",
            "classes": family.clean.classes,
            "images": family.clean.images,
            "published_zero_shot": None,
            "small_models": list(family.clean.small_models),
            "licence": family.licence,
            "source": list(family.source),
            "layout": list(family.layout),
        }
        for family in FAMILIES.values()
    ]
    titles = ("Your own: a folder per class", "Your own: CSV of path,label", "Your own: Parquet with image,label")
    empty: dict[str, Any] = {
        "classes": None,
        "images": None,
        "published_zero_shot": None,
        "small_models": None,
        "licence": None,
        "source": [],
        "layout": [],
    }
    return rows + [{"name": n, "title": t, "kind": "real", **empty} for n, t in zip(CUSTOM, titles, strict=True)]


def _print_known(rows: list[dict[str, Any]], console: Console) -> None:
    from grpo_tta.report.columns import Column, FittedTable

    columns = [
        Column("name", 16, key=True),
        Column("what", 12),
        Column("kind", 12, leave_out=1, style="dim"),
        Column("classes"),
        Column("images"),
        Column("published zero-shot, ViT-B/16"),
        Column("fits", 10, style="dim"),
    ]
    table = FittedTable(columns, elsewhere="--json")
    for row in rows:
        numbers = ["" if row[key] is None else f"{row[key]:,}" for key in ("classes", "images", "published_zero_shot")]
        table.add_row(row["name"], row["title"], row["kind"], *numbers, _fits(row["small_models"]))
    table.print(console)
    console.print("[dim]grpo-tta datasets check NAME --root DIR verifies a copy and says what to download from where.[/dim]")
    console.print(
        "[dim]fits: shipped models that read 'a photo of a {}.' of every class. They read 24 tokens; other models read 64 or "
        "77.[/dim]"
    )


def _fits(models: list[str] | None) -> str:
    return "your names decide" if models is None else ", ".join(models) or "neither"


def _print_check(check: Check, console: Console) -> None:
    from rich.text import Text

    from grpo_tta.errors import as_text, counted

    name = Text(check.name, "bold")
    if check.where is not None:
        read = f"{check.decoded:,} of them opened" if check.decoded else "none of them opened"
        classes = f"{check.classes:,} {'class' if check.classes == 1 else 'classes'}"
        console.print(name.append(f": {classes}, {counted(check.images, 'image')}, {read}", "not bold"))
        console.print(f"  read from {as_text(check.where)} ({as_text(check.origin)})", markup=False)
    else:
        console.print(name.append(": not read", "not bold"))
    for problem in check.problems:
        console.print(f"  wrong: {as_text(problem)}", style="red", markup=False)
    for note in check.notes:
        console.print(f"  note: {as_text(note)}", style="yellow", markup=False)
    if not check.problems:
        console.print("  all is well", style="green")
    for title, lines in (("from", check.source), ("into", check.layout)):
        for line in lines:
            console.print(f"  {title}: {line}", style="dim", markup=False)
    console.print(f"  licence: {check.licence}", style="dim", markup=False)
