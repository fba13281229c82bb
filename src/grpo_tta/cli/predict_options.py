"""The options of `grpo-tta predict`, declared once. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, final

import typer

from grpo_tta.cli.config_file import Config
from grpo_tta.cli.options import (
    Assignments,
    AutoBatch,
    ClassNames,
    Device,
    Download,
    Model,
    Precision,
    Preset,
    RayOptions,
    Seed,
    Templates,
    Threads,
    Weights,
)
from grpo_tta.errors import UserError

_OUTPUT, _LOG = "Output", "Log"


@final
@dataclass(frozen=True, kw_only=True)
class PredictOptions(RayOptions):
    """What `grpo-tta predict` takes."""

    paths: Annotated[
        list[str],
        typer.Argument(
            help="Image files, folders searched for images, quoted globs such as 'photos/**/*.jpg', URLs of files and folders, "
            "or - for a list on standard input. Ray: also one Parquet manifest.",
            show_default=False,
        ),
    ] = field(default_factory=list)
    files_from: Annotated[
        str, typer.Option(help="File that lists images or folders, one per line or separated by NUL; - for standard input.")
    ] = ""
    labels: Annotated[str, typer.Option(help="Comma-separated class names, at least two.")] = ""
    labels_file: Annotated[
        Path | None, typer.Option(help="Instead of --labels: class names, one per line, or a .json of label and name.")
    ] = None
    model: Model = "nano-clip"
    weights: Weights = None
    class_names: ClassNames = None
    template: Templates = None
    preset: Preset = "default"
    assignments: Assignments = field(default_factory=list)
    seed: Seed = 0
    device: Device = "auto"
    dtype: Precision = "float32"
    threads: Threads = None
    batch: AutoBatch = "16"
    workers: Annotated[
        str, typer.Option(help="Threads that read the next batch of images while one is in work; 0 for none.")
    ] = "auto"
    full_resolution: Annotated[
        bool,
        typer.Option("--full-resolution", help="Cut views from large photographs as they are. Slower; see docs/predict.md."),
    ] = False
    online: Annotated[
        bool,
        typer.Option(
            "--online",
            help="Take the images as a stream, in order: each answer depends on all images before it. See docs/protocols.md.",
        ),
    ] = False
    state: Annotated[
        Path | None,
        typer.Option(help="With --online: file of the stream's state. Taken up where it exists, written at the end."),
    ] = None
    download: Download = False
    config: Config = None
    as_csv: Annotated[
        bool, typer.Option("--csv", help="CSV on standard output, a row as each image is answered.", rich_help_panel=_OUTPUT)
    ] = False
    as_jsonl: Annotated[
        bool,
        typer.Option("--jsonl", help="JSON on standard output, a line as each image is answered.", rich_help_panel=_OUTPUT),
    ] = False
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="One JSON document on standard output, at the end. Holds all answers in memory; --jsonl does not.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False
    out: Annotated[
        str,
        typer.Option(
            help="Folder of the answers, as Parquet. The same command resumes it. Default with Ray: runs/predict.",
            rich_help_panel=_OUTPUT,
        ),
    ] = ""
    embeddings: Annotated[
        Path | None,
        typer.Option(
            help="File of the adapted image features beside the answers: .parquet (id, embedding) or .npz (ids, embeddings).",
            rich_help_panel=_OUTPUT,
        ),
    ] = None
    chunk: Annotated[
        int,
        typer.Option(help="Rows per file of --out. Ray: also images handed out at once.", rich_help_panel=_OUTPUT),
    ] = 128
    top_k: Annotated[int, typer.Option(help="Most probable labels in a row of --jsonl and --out.", rich_help_panel=_OUTPUT)] = 5
    all_probabilities: Annotated[
        bool,
        typer.Option("--all-probabilities", help="Rows of --jsonl and --out also hold every label's.", rich_help_panel=_OUTPUT),
    ] = False
    threshold: Annotated[
        float,
        typer.Option(
            help="Abstain below this probability: the label stays empty, and `abstained` is true.", rich_help_panel=_OUTPUT
        ),
    ] = 0.0
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say also what was loaded and written.", rich_help_panel=_LOG)
    ] = False
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Only errors on standard error.", rich_help_panel=_LOG),
    ] = False


def workers_of(options: PredictOptions) -> int | None:
    """`--workers` as `GRPOTTA` takes it: None where the number of cores decides.

    Raises:
        UserError: it is no number.
    """
    if options.workers == "auto":
        return None
    if not options.workers.isdecimal():
        raise UserError(f"--workers is auto or a whole number from 0 on, not {options.workers!r}.")
    return int(options.workers)


def assignments_of(options: PredictOptions) -> list[str]:
    """All changes of settings that the options name."""
    return [*options.assignments, *(["views.full_resolution=true"] if options.full_resolution else [])]
