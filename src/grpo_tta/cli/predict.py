"""`grpo-tta predict`: your own images, each adapted to alone. Heavy imports happen inside."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, final

import typer

from grpo_tta.cli.command import command_of
from grpo_tta.cli.options import (
    Assignments,
    Batch,
    Device,
    Download,
    Model,
    Precision,
    Preset,
    RayOptions,
    Seed,
    Templates,
    make_console,
    ray_settings,
    say,
    settings_of,
    split_list,
)
from grpo_tta.errors import UserError, as_text, counted

if TYPE_CHECKING:
    from rich.console import Console

    from grpo_tta.classifier import GRPOTTA, Prediction
    from grpo_tta.cluster.settings import RaySettings


@final
@dataclass(frozen=True, kw_only=True)
class PredictOptions(RayOptions):
    """What `grpo-tta predict` takes."""

    paths: Annotated[
        list[str], typer.Argument(help="Image files, or folders searched for images. Ray: one folder or Parquet manifest.")
    ]
    labels: Annotated[str, typer.Option(help="Comma-separated class names, at least two.")] = ""
    labels_file: Annotated[
        Path | None, typer.Option(help="Instead of --labels: class names, one per line, or a .json of label and name.")
    ] = None
    model: Model = "nano-clip"
    template: Templates = None
    preset: Preset = "default"
    assignments: Assignments = field(default_factory=list)
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on standard output, one row per image.")] = False
    seed: Seed = 0
    device: Device = "cpu"
    dtype: Precision = "float32"
    batch: Batch = 16
    download: Download = False
    out: Annotated[
        str,
        typer.Option(
            help="Folder of the answers; default: runs/predict. An existing run is resumed. With --engine ray only.",
            rich_help_panel="Ray",
        ),
    ] = ""
    chunk: Annotated[
        int, typer.Option(help="Images handed out at once. Each becomes one file of rows.", rich_help_panel="Ray")
    ] = 128


@final
@dataclass(frozen=True)
class Answers:
    """
    Attributes:
        found: answers, by image.
        problems: images without an answer, and why.
        asked: how many images there are; more than the others together where the run was interrupted.
    """

    found: Sequence[tuple[Path, Prediction]]
    problems: Sequence[tuple[Path, str]]
    asked: int


@command_of(PredictOptions)
def predict(options: PredictOptions) -> None:
    """Classify your own images, each adapted to alone.

    The exit status is 1 if an image could not be read, and 130 if the run was interrupted.
    """
    names = _class_names(options)
    if options.as_json and options.as_csv:
        raise UserError("--json and --csv were both given; use one of them.")
    if ray := ray_settings(options, options.chunk):
        _predict_on_ray(options, names, ray)
    else:
        _predict_here(options, names)


def _class_names(options: PredictOptions) -> list[str]:
    if (not options.labels) == (options.labels_file is None):
        raise UserError("Name the classes by --labels or by --labels-file, and by one of them alone.")
    if options.labels_file is None:
        return split_list(options.labels)
    from grpo_tta.data.labels import class_names, read_labels

    return list(class_names(read_labels(options.labels_file)))


def _predict_on_ray(options: PredictOptions, names: Sequence[str], ray: RaySettings) -> None:
    from grpo_tta.backbones.base import check_dtype
    from grpo_tta.backbones.prompts import DEFAULT_TEMPLATE
    from grpo_tta.cluster.jobs import ModelName
    from grpo_tta.cluster.ray_data import predict_on_ray

    if len(options.paths) > 1 or options.as_json or options.as_csv:
        raise UserError("Ray reads one folder or one Parquet manifest, and writes Parquet; name one, without --json or --csv.")
    out = options.out or "runs/predict"
    model = ModelName(options.model, options.device, options.download, check_dtype(options.dtype))
    arguments = {
        "templates": tuple(options.template or (DEFAULT_TEMPLATE,)),
        "settings": settings_of(options.preset, options.assignments),
        "seed": options.seed,
    }
    rows = predict_on_ray(model, names, options.paths[0], out, options.batch, arguments, ray, say)
    typer.echo(f"{counted(rows, 'answer')} in {out}/predictions (Parquet; a row with an `error` has no answer).")


def _predict_here(options: PredictOptions, names: Sequence[str]) -> None:
    from grpo_tta.backbones.base import check_dtype
    from grpo_tta.backbones.prompts import DEFAULT_TEMPLATE
    from grpo_tta.classifier import GRPOTTA
    from grpo_tta.images.folders import find_images

    if options.out:
        raise UserError("--out belongs to --engine ray; write the output of --json or --csv to a file instead: --csv > FILE.")
    classifier = GRPOTTA(
        options.model,
        names,
        templates=options.template or DEFAULT_TEMPLATE,
        settings=settings_of(options.preset, options.assignments),
        seed=options.seed,
        device=options.device,
        batch=options.batch,
        download=options.download,
        dtype=check_dtype(options.dtype),
    )
    found = find_images([Path(path) for path in options.paths], note=say)
    answers = _classify(classifier, found, options.batch)
    if options.as_json:
        _print_json(answers, options.model, classifier.labels)
    elif options.as_csv:
        _print_csv(answers)
    else:
        _print_table(answers, options.model, make_console())
    for _, text in answers.problems:
        say(text)
    if (done := len(answers.found) + len(answers.problems)) < answers.asked:
        say(f"Interrupted after {done} of {answers.asked} images.")
        raise typer.Exit(130)
    if answers.problems:
        raise typer.Exit(1)


def _classify(classifier: GRPOTTA, paths: Sequence[Path], batch: int) -> Answers:
    """Answers and problems, under a bar on the terminal; of an interrupted run those that were found."""
    from rich.progress import Progress

    from grpo_tta.classifier import classify
    from grpo_tta.images.read import load_image

    found: list[tuple[Path, Prediction]] = []
    problems: list[tuple[Path, str]] = []
    console = make_console(stderr=True)
    with (
        contextlib.suppress(KeyboardInterrupt),
        Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        line = bar.add_task("images", total=len(paths))
        for number, answer in classify(classifier, lambda number: load_image(paths[number]), len(paths), batch):
            if isinstance(answer, str):
                problems.append((paths[number], answer))
            else:
                found.append((paths[number], answer))
            bar.advance(line)
    return Answers(found, problems, len(paths))


def _print_json(answers: Answers, model: str, labels: Sequence[str]) -> None:
    content = {
        "model": model,
        "labels": list(labels),
        "predictions": [{"path": str(path), **asdict(answer)} for path, answer in answers.found],
        "errors": [{"path": str(path), "error": text} for path, text in answers.problems],
    }
    typer.echo(json.dumps(content, indent=2))


def _print_csv(answers: Answers) -> None:
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["path", "label", "probability", "label_before", "probability_before", "error"])
    for path, a in answers.found:
        before = a.probabilities_before[a.label_before]
        rows.writerow([as_text(str(path)), a.label, f"{a.probability:.6g}", a.label_before, f"{before:.6g}", ""])
    for path, text in answers.problems:
        rows.writerow([as_text(str(path)), "", "", "", "", as_text(text)])


def _print_table(answers: Answers, model: str, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    if not answers.found:
        return
    table = Table(header_style="bold")
    table.add_column("image", overflow="fold")
    table.add_column("label")
    table.add_column("probability", justify="right")
    table.add_column("zero-shot label", style="dim")
    table.add_column("probability", justify="right", style="dim")
    for path, answer in answers.found:
        changed = answer.label != answer.label_before
        before = answer.probabilities_before[answer.label_before]
        table.add_row(
            Text(as_text(str(path))),
            Text(answer.label, "bold" if changed else ""),
            f"{100 * answer.probability:.1f} %",
            Text(answer.label_before),
            f"{100 * before:.1f} %",
        )
    console.print(table)
    forwards, backwards = (fmean(x) for x in zip(*((a.forwards, a.backwards) for _, a in answers.found), strict=True))
    note = f"Model {model}; {forwards:.0f} forward and {backwards:.0f} backward passes per image."
    if model == "nano-clip":
        note += " It knows drawings alone: for photographs name another --model (photo-clip, ViT-B-16/openai, ...)."
    console.print(Text(note, "dim"))
