"""The command line. Heavy imports happen inside the commands, so that `grpo-tta --help` answers at once."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grpo_tta.cli_models import list_models
from grpo_tta.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from grpo_tta.classifier import GRPOTTA, Prediction

app = typer.Typer(
    name="grpo-tta",
    help="Adapts CLIP-like models to one unlabelled picture at a time by Group Relative Policy Optimization.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Model = Annotated[
    str,
    typer.Option(
        help="nano-clip (shipped), ARCHITECTURE/PRETRAINED of open_clip, hf-hub:ORG/NAME of its hub, ORG/NAME in "
        "transformers' format (CLIP, SigLIP), or a folder. See: grpo-tta models."
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")]
Download = Annotated[bool, typer.Option("--download", help="Allow weights to be fetched; never done unasked.")]
Seed = Annotated[int, typer.Option(help="Of crops, copies and sampled groups.")]
DEMO_METHODS = ("zero-shot", "view-mean", "reward-argmax", "grpo-tta-paper", "grpo-tta")


def _split_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of records, summary and figure; an existing run is resumed.")] = Path(
        "runs/demo"
    ),
    limit: Annotated[int, typer.Option(help="Images a task, at most 1000.")] = 48,
    tasks: Annotated[str, typer.Option(help="Comma-separated tasks; default: all but the streams.")] = "",
    split: Annotated[str, typer.Option(help="reporting or tuning.")] = "reporting",
    seed: Seed = 0,
    batch: Annotated[int, typer.Option(help="Images adapted in one pass.")] = 16,
) -> None:
    """Adapt the shipped nano-clip on the nano suite: both presets and the controls, with a table and a figure."""
    from rich.console import Console

    from grpo_tta.benchmark import RunSettings
    from grpo_tta.data.tasks import nano_tasks
    from grpo_tta.demo import run_demo
    from grpo_tta.methods import choose_methods
    from grpo_tta.towers import load_tower

    chosen = nano_tasks(_split_list(tasks) if tasks else None, split, limit)
    settings = RunSettings(seed=seed, batch=batch)
    run_demo(
        load_tower("nano-clip"),
        chosen,
        choose_methods(DEMO_METHODS),
        out,
        settings,
        split,
        Console(width=None if sys.stdout.isatty() else 150),
    )


@app.command()
def predict(
    paths: Annotated[list[Path], typer.Argument(help="Picture files, or folders searched for pictures.")],
    labels: Annotated[str, typer.Option(help="Comma-separated class names, at least two.")],
    model: Model = "nano-clip",
    template: Annotated[list[str] | None, typer.Option(help="Prompt with {} for the label; may be repeated.")] = None,
    preset: Annotated[str, typer.Option(help="default or paper.")] = "default",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
    seed: Seed = 0,
    device: Device = "cpu",
    batch: Annotated[int, typer.Option(help="Pictures adapted in one pass.")] = 16,
    download: Download = False,
) -> None:
    """Classify your own pictures, each adapted to alone. Exit status 1 if any picture could not be read."""
    from rich.console import Console

    from grpo_tta.classifier import GRPOTTA
    from grpo_tta.images import find_images
    from grpo_tta.prompts import DEFAULT_TEMPLATE

    classifier = GRPOTTA(
        model,
        _split_list(labels),
        templates=template or DEFAULT_TEMPLATE,
        settings=preset,
        seed=seed,
        device=device,
        batch=batch,
        download=download,
    )
    answers, problems = _classify(classifier, find_images(paths), batch)
    if as_json:
        content = {
            "model": model,
            "labels": list(classifier.labels),
            "predictions": [{"path": str(path), **asdict(answer)} for path, answer in answers],
            "errors": [{"path": str(path), "error": text} for path, text in problems],
        }
        typer.echo(json.dumps(content, indent=2))
    else:
        _print_answers(answers, Console(width=None if sys.stdout.isatty() else 150))
    for _, text in problems:
        typer.echo(text, err=True)
    if problems:
        raise typer.Exit(1)


@app.command()
def bench(
    suite: Annotated[str, typer.Option(help="nano: the shipped suite. Ignored where --data is given.")] = "nano",
    data: Annotated[
        Path | None, typer.Option(help="Your own: a folder per class, a CSV of path,label, or Parquet with image,label.")
    ] = None,
    labels_file: Annotated[Path | None, typer.Option(help="Class names of --data, one a line.")] = None,
    template: Annotated[str, typer.Option(help="Prompt of --data, with {} for the label.")] = "a photo of a {}.",
    methods: Annotated[str, typer.Option(help="all, or comma-separated names.")] = "all",
    tasks: Annotated[str, typer.Option(help="Comma-separated tasks of the suite; default: all but the streams.")] = "",
    split: Annotated[str, typer.Option(help="reporting or tuning.")] = "reporting",
    model: Model = "nano-clip",
    seed: Seed = 0,
    limit: Annotated[int | None, typer.Option(help="Images a task.")] = None,
    shard: Annotated[str, typer.Option(help="i/n: every n-th part of each task; episodic methods only.")] = "0/1",
    batch: Annotated[int, typer.Option(help="Images adapted in one pass.")] = 16,
    teacher: Annotated[str, typer.Option(help="A second model as reward, for methods that take one (rlcf, rlcf-full).")] = "",
    out: Annotated[Path, typer.Option(help="Folder of the records; an existing run is resumed.")] = Path("runs/bench"),
    device: Device = "cpu",
    download: Download = False,
) -> None:
    """Measure methods on the nano suite or on your own labelled pictures, zero-shot always beside."""
    from rich.console import Console

    from grpo_tta.baselines.teacher import taught_methods
    from grpo_tta.benchmark import RunSettings
    from grpo_tta.data.custom import custom_task
    from grpo_tta.data.tasks import nano_tasks
    from grpo_tta.demo import run_with_progress
    from grpo_tta.methods import choose_methods
    from grpo_tta.towers import load_tower

    if data is not None:
        chosen = [custom_task(data, template=template, labels_file=labels_file, limit=limit)]
    elif suite == "nano":
        chosen = nano_tasks(_split_list(tasks) if tasks else None, split, limit)
    else:
        raise UserError(f"Unknown suite {suite!r}; use nano, or --data for your own pictures.")
    wanted = _split_list(methods)
    names = wanted if "all" in wanted or "zero-shot" in wanted else ["zero-shot", *wanted]
    settings = RunSettings(seed=seed, batch=batch, shard=_shard(shard))
    console = Console(width=None if sys.stdout.isatty() else 150)
    selected = choose_methods(names)
    if teacher:
        selected += taught_methods(names, load_tower(teacher, device=device, download=download))
    run_with_progress(load_tower(model, device=device, download=download), chosen, selected, out, settings, console)
    console.print(f"Records in {out / 'records'}. Next: grpo-tta report {out} --out {out / 'report'}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs; several are read together (seeds, shards, tasks).")],
    out: Annotated[Path, typer.Option(help="Folder of the report.")],
) -> None:
    """Turn records into tables, paired tests and one self-contained HTML page."""
    from rich.console import Console

    from grpo_tta.report import write_report

    write_report(runs, out, console=Console(width=None if sys.stdout.isatty() else 150))


app.command("models")(list_models)


def _shard(text: str) -> tuple[int, int]:
    first, slash, count = text.partition("/")
    if not slash or not first.isdigit() or not count.isdigit():
        raise UserError(f"Shard {text!r} cannot be read; write i/n, for example 0/2.")
    return int(first), int(count)


def _classify(
    classifier: GRPOTTA, paths: list[Path], batch: int
) -> tuple[list[tuple[Path, Prediction]], list[tuple[Path, str]]]:
    """Answers for the pictures that can be read, and a sentence for each that cannot; never all pictures in memory."""
    from grpo_tta.images import load_image

    answers: list[tuple[Path, Prediction]] = []
    problems: list[tuple[Path, str]] = []
    for first in range(0, len(paths), batch):
        pictures = []
        for path in paths[first : first + batch]:
            try:
                pictures.append((path, load_image(path)))
            except UserError as error:
                problems.append((path, str(error)))
        found = classifier.predict([picture for _, picture in pictures])
        answers += list(zip([path for path, _ in pictures], found, strict=True))
    return answers, problems


def _print_answers(answers: list[tuple[Path, Prediction]], console: Console) -> None:
    from rich.table import Table

    if not answers:
        return
    table = Table(header_style="bold")
    table.add_column("picture", overflow="fold")
    table.add_column("label")
    table.add_column("probability", justify="right")
    table.add_column("zero-shot label", style="dim")
    table.add_column("probability", justify="right", style="dim")
    for path, answer in answers:
        changed = answer.label != answer.label_before
        label = f"[bold]{answer.label}[/bold]" if changed else answer.label
        before = answer.probabilities_before[answer.label_before]
        table.add_row(str(path), label, f"{100 * answer.probability:.1f} %", answer.label_before, f"{100 * before:.1f} %")
    console.print(table)
    first = answers[0][1]
    console.print(f"[dim]{first.forwards:.0f} forward and {first.backwards:.0f} backward passes a picture[/dim]")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"grpo-tta {version('grpo-tta')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: a `UserError` is one sentence on standard error and exit status 2, never a traceback."""
    try:
        app()
    except UserError as error:
        typer.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
