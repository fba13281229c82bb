"""The command line. Heavy imports happen inside the commands, so that `grpo-tta --help` answers at once."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer

from grpo_tta.cli import datasets, web
from grpo_tta.cli.models import list_models
from grpo_tta.cli.options import (
    Batch,
    BenchModel,
    Device,
    Download,
    Model,
    Part,
    Precision,
    Preset,
    Seed,
    Templates,
    make_console,
    split_list,
)
from grpo_tta.cli.sweep import read_seeds, sweep
from grpo_tta.errors import UserError, as_text

if TYPE_CHECKING:
    from rich.console import Console

    from grpo_tta.classifier import GRPOTTA, Prediction
    from grpo_tta.cluster.ray_data import RaySettings

app = typer.Typer(
    name="grpo-tta",
    help="Adapts CLIP-like models to one unlabelled image at a time by Group Relative Policy Optimization.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(datasets.app, name="datasets")

Engine = Annotated[str, typer.Option(help="local, or ray: any number of machines (the extra `ray`; see docs/scaling.md).")]
Actors = Annotated[int, typer.Option(help="ray: processes that hold the model.", rich_help_panel="Ray")]
ActorCpus = Annotated[float, typer.Option(help="ray: CPUs of each, and threads.", rich_help_panel="Ray")]
ActorGpus = Annotated[float, typer.Option(help="ray: GPUs of each; 0.5 puts two on a GPU.", rich_help_panel="Ray")]
ActorMemory = Annotated[float | None, typer.Option(help="ray: GB each may take while adapting.", rich_help_panel="Ray")]
Chunk = Annotated[int, typer.Option(help="ray: images handed out at once, a file of rows each.", rich_help_panel="Ray")]
RayAddress = Annotated[str | None, typer.Option(help="ray: a running cluster; default RAY_ADDRESS, else start one here.",
                                                rich_help_panel="Ray")]  # fmt: skip
DEMO_METHODS = ("zero-shot", "view-mean", "reward-argmax", "grpo-tta-paper", "grpo-tta")


def _options_of(context: typer.Context, without: Sequence[str]) -> list[str]:
    """The options of a call as words of a command line, those at their default left out."""
    words = []
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if parameter.name in without or value == parameter.get_default(context):
            continue
        words += [parameter.opts[0]] if value is True else [parameter.opts[0], str(value)]
    return words


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of records, summary and figure; an existing run is resumed.")] = Path(
        "runs/demo"
    ),
    limit: Annotated[int, typer.Option(help="Images a task, at most 1000.")] = 48,
    tasks: Annotated[str, typer.Option(help="Comma-separated tasks; default: all but the streams.")] = "",
    split: Annotated[str, typer.Option(help="reporting or tuning.")] = "reporting",
    seed: Seed = 0,
    batch: Batch = 16,
) -> None:
    """Adapt the shipped nano-clip on the nano suite: both presets and the controls, with a table and a figure."""
    from grpo_tta.backbones.base import load_backbone
    from grpo_tta.baselines.registry import choose_methods
    from grpo_tta.bench.runner import RunSettings
    from grpo_tta.cli.demo import run_demo
    from grpo_tta.data.tasks import nano_tasks

    chosen = nano_tasks(split_list(tasks) if tasks else None, split, limit)
    settings = RunSettings(seed=seed, batch=batch)
    run_demo(
        load_backbone("nano-clip"),
        chosen,
        choose_methods(DEMO_METHODS),
        out,
        settings,
        split,
        make_console(),
    )


@app.command()
def predict(
    paths: Annotated[
        list[str], typer.Argument(help="Image files, or folders searched for images; ray: one folder or Parquet manifest.")
    ],
    labels: Annotated[str, typer.Option(help="Comma-separated class names, at least two.")] = "",
    labels_file: Annotated[
        Path | None, typer.Option(help="Instead of --labels: class names, one a line, or a .json of label and name.")
    ] = None,
    model: Model = "nano-clip",
    template: Templates = None,
    preset: Preset = "default",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on standard output, a row an image.")] = False,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: Precision = "float32",
    batch: Batch = 16,
    download: Download = False,
    out: Annotated[
        str, typer.Option(help="ray: folder of the answers (default runs/predict); an existing run is resumed.")
    ] = "",
    engine: Engine = "local",
    actors: Actors = 2,
    actor_cpus: ActorCpus = 1.0,
    actor_gpus: ActorGpus = 0.0,
    actor_memory: ActorMemory = None,
    chunk: Chunk = 128,
    ray_address: RayAddress = None,
) -> None:
    """Classify your own images, each adapted to alone. Exit status 1 if any image could not be read, 130 if interrupted."""
    from grpo_tta.backbones.base import check_dtype
    from grpo_tta.backbones.prompts import DEFAULT_TEMPLATE
    from grpo_tta.classifier import GRPOTTA
    from grpo_tta.images.folders import find_images

    precision = check_dtype(dtype)
    names = _class_names(labels, labels_file)
    if as_json and as_csv:
        raise UserError("--json and --csv were both given; use one of them.")
    if ray := _ray(engine, actors, actor_cpus, actor_gpus, actor_memory, chunk, ray_address):
        from grpo_tta.cluster.ray_data import Model as ModelName
        from grpo_tta.cluster.ray_data import predict_on_ray

        if len(paths) > 1 or as_json or as_csv:
            raise UserError(
                "Ray reads one folder or one Parquet manifest, and writes Parquet; name one, without --json or --csv."
            )
        out = out or "runs/predict"
        options = {"templates": tuple(template or (DEFAULT_TEMPLATE,)), "settings": preset, "seed": seed}
        rows = predict_on_ray(ModelName(model, device, download, precision), names, paths[0], out, batch, options, ray)
        typer.echo(f"{rows} answers in {out}/predictions (Parquet; a row with an `error` has no answer).")
        return
    if out:
        raise UserError("--out belongs to --engine ray; write the output of --json or --csv to a file instead: --csv > FILE.")
    classifier = GRPOTTA(
        model,
        names,
        templates=template or DEFAULT_TEMPLATE,
        settings=preset,
        seed=seed,
        device=device,
        batch=batch,
        download=download,
        dtype=precision,
    )
    found = find_images([Path(path) for path in paths])
    answers, problems = _classify(classifier, found, batch)
    if as_json:
        content = {
            "model": model,
            "labels": list(classifier.labels),
            "predictions": [{"path": str(path), **asdict(answer)} for path, answer in answers],
            "errors": [{"path": str(path), "error": text} for path, text in problems],
        }
        typer.echo(json.dumps(content, indent=2))
    elif as_csv:
        _write_csv(answers, problems)
    else:
        _print_answers(answers, model, make_console())
    for _, text in problems:
        typer.echo(as_text(text), err=True)
    if (done := len(answers) + len(problems)) < len(found):
        typer.echo(f"Interrupted after {done} of {len(found)} images.", err=True)
        raise typer.Exit(130)
    if problems:
        raise typer.Exit(1)


@app.command()
def bench(
    context: typer.Context,
    suite: Annotated[
        str, typer.Option(help="nano (shipped) or photos (needs --photos-root). Ignored where --data or --dataset is given.")
    ] = "nano",
    photos_root: Annotated[Path | None, typer.Option(help="Folder that holds the photographs of --suite photos.")] = None,
    dataset: Annotated[
        str, typer.Option(help="Comma-separated names from 'grpo-tta datasets', or fifteen for all of these; needs --root.")
    ] = "",
    root: Annotated[Path | None, typer.Option(help="Folder that holds the benchmarks of --dataset.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Your own: a folder per class, a CSV of path,label, or Parquet with image,label.")
    ] = None,
    labels_file: Annotated[
        Path | None, typer.Option(help="Class names of --data, one a line, or a .json of label and name.")
    ] = None,
    template: Annotated[
        str, typer.Option(help="Prompt of --data and --dataset, with {} for the label, or coop for CoOp's own of a benchmark.")
    ] = "a photo of a {}.",
    corruptions: Annotated[
        str, typer.Option(help="all fifteen of ImageNet-C, or comma-separated; made on the fly but for the -c sets.")
    ] = "",
    severities: Annotated[str, typer.Option(help="Of the corruptions, comma-separated, 1 to 5.")] = "5",
    official_split: Annotated[
        bool, typer.Option("--official-split", help="torchvision's own test split of --dataset.")
    ] = False,
    methods: Annotated[str, typer.Option(help="all, or comma-separated names.")] = "all",
    tasks: Annotated[str, typer.Option(help="all, or comma-separated tasks of the suite; default: all but the streams.")] = "",
    split: Annotated[str, typer.Option(help="reporting or tuning.")] = "reporting",
    model: BenchModel = "",
    seed: Seed = 0,
    seeds: Annotated[str, typer.Option(help="Comma-separated: one run a seed, in OUT/seed-N; instead of --seed.")] = "",
    limit: Annotated[int | None, typer.Option(help="Images a task.")] = None,
    limit_heavy: Annotated[
        int | None,
        typer.Option(help="Images a task for methods of more than 64 passes an image, a backward pass counted as two."),
    ] = None,
    shard: Annotated[str, typer.Option(help="i/n: every n-th part of each task; episodic methods only.")] = "0/1",
    batch: Batch = 16,
    chunk: Part = 128,
    workers: Annotated[int, typer.Option(help="Processes that share the tasks, and the cores, between them.")] = 1,
    task_share: Annotated[str, typer.Option(help="i/n: every n-th task; for processes that share a folder.")] = "0/1",
    teacher: Annotated[str, typer.Option(help="A second model as reward, for methods that take one (rlcf, rlcf-full).")] = "",
    out: Annotated[str, typer.Option(help="Folder of the records; an existing run is resumed.")] = "runs/bench",
    with_report: Annotated[bool, typer.Option("--report", help="Write the report into OUT/report at the end.")] = False,
    device: Device = "cpu",
    dtype: Precision = "float32",
    download: Download = False,
    engine: Engine = "local",
    actors: Actors = 2,
    actor_cpus: ActorCpus = 1.0,
    actor_gpus: ActorGpus = 0.0,
    actor_memory: ActorMemory = None,
    ray_address: RayAddress = None,
) -> None:
    """Measure methods on the nano suite, photographs, benchmarks or your own labelled images, zero-shot always beside."""
    from grpo_tta.backbones.base import check_dtype, load_backbone
    from grpo_tta.baselines.registry import choose_methods
    from grpo_tta.baselines.teacher import taught_methods
    from grpo_tta.bench.records import read_errors
    from grpo_tta.bench.runner import RunSettings
    from grpo_tta.bench.table import run_table
    from grpo_tta.bench.workers import worker_commands
    from grpo_tta.data.choose import Choice, choose_tasks

    ray = _ray(engine, actors, actor_cpus, actor_gpus, actor_memory, chunk, ray_address)
    choice = Choice(
        suite=suite, tasks=tuple(split_list(tasks)) if tasks else None, photos_root=photos_root, split=split, limit=limit,
        data=None if data is None else Path(data), labels_file=labels_file, template=template,
        datasets=tuple(split_list(dataset)) if dataset else (), root=root, official_split=official_split,
        corruptions=tuple(split_list(corruptions)) if corruptions else (), severities=tuple(split_list(severities)),
        download=download,
    )  # fmt: skip
    photos = suite == "photos" and data is None and not dataset
    precision = check_dtype(dtype)
    model = model or ("photo-clip" if photos else "nano-clip")
    # Ray reads the user's own images itself, wherever they lie
    chosen = [] if ray and data is not None else choose_tasks(choice)
    wanted = split_list(methods)
    names = wanted if "all" in wanted or "zero-shot" in wanted else ["zero-shot", *wanted]
    settings = RunSettings(batch=batch, chunk=chunk, shard=_shard(shard), task_share=_shard(task_share))
    console = make_console()
    if ray:
        from grpo_tta.cluster.ray_data import Model as ModelName
        from grpo_tta.cluster.ray_data import TaskSource, bench_on_ray, manifest_source

        local_only = settings.shard != (0, 1) or workers > 1 or seeds or limit_heavy or teacher
        if local_only or (data is not None and (limit is not None or corruptions or dataset)):
            raise UserError(
                "Ray shares the work out itself: leave out --shard, --workers, --seeds, --limit-heavy and --teacher, "
                "and beside --data also --limit, --corruptions and --dataset."
            )
        settings = replace(settings, seed=seed)
        source = manifest_source(data, out, template, labels_file) if data is not None else TaskSource(tuple(chosen))
        bench_on_ray(ModelName(model, device, download, precision), source, choose_methods(names), out, settings, ray)
    else:
        selected = choose_methods(names)
        if teacher:
            selected += taught_methods(names, load_backbone(teacher, device=device, download=download))
        folders = run_table(
            load_backbone(model, device=device, download=download, dtype=precision),
            chosen,
            selected,
            Path(out),
            settings,
            console,
            seeds=read_seeds(seeds) if seeds else [seed],
            dear_limit=limit_heavy,
            workers=worker_commands(_options_of(context, ("workers", "task_share", "with_report")), workers)
            if workers != 1
            else (),
        )
        if len(errors := read_errors(folders)):
            first = errors.iloc[0]
            told = f"{first['method']} on {first['image_id']}: {first['error']}"
            console.print(f"{len(errors)} rows hold an error and count as wrong. The first: {told}", style="red", markup=False)
    if with_report:
        report([Path(out)], Path(out) / "report", photos_root=photos_root)
    else:
        console.print(f"Records in {out}. Next: grpo-tta report {out} --out {out}/report", markup=False)


app.command()(sweep)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs; several are read together (seeds, shards, tasks).")],
    out: Annotated[Path, typer.Option(help="Folder of the report.")],
    reference: Annotated[
        str, typer.Option(help="Method to compare the others with; default: grpo-tta, or else the first but zero-shot.")
    ] = "",
    photos_root: Annotated[
        Path | None, typer.Option(help="Folder that holds the photographs of the photos suite, to show them in the gallery.")
    ] = None,
) -> None:
    """Turn records into tables, paired tests and one self-contained HTML page."""
    from grpo_tta.report.html import write_report

    write_report(runs, out, reference=reference, photos_root=photos_root, console=make_console())


app.command()(web.serve)
app.command("app")(web.page)
app.command("models")(list_models)


def _shard(text: str) -> tuple[int, int]:
    first, slash, count = text.partition("/")
    if not slash or not first.isdigit() or not count.isdigit():
        raise UserError(f"Shard {text!r} cannot be read; write i/n, for example 0/2.")
    return int(first), int(count)


def _ray(
    engine: str, actors: int, cpus: float, gpus: float, memory: float | None, chunk: int, address: str | None
) -> RaySettings | None:
    if engine not in ("local", "ray"):
        raise UserError(f"Unknown engine {engine!r}; choose local or ray.")
    if engine == "local":
        return None
    try:
        from grpo_tta.cluster.ray_data import RaySettings
    except ImportError:
        raise UserError("--engine ray needs Ray; install it with: python -m pip install 'grpo-tta[ray]'.") from None
    return RaySettings(actors, cpus, gpus, memory, chunk, address)


def _class_names(labels: str, labels_file: Path | None) -> list[str]:
    if (not labels) == (labels_file is None):
        raise UserError("Name the classes by --labels or by --labels-file, and by one of them alone.")
    if labels_file is None:
        return split_list(labels)
    from grpo_tta.data.labels import class_names, read_labels

    return list(class_names(read_labels(labels_file)))


def _classify(
    classifier: GRPOTTA, paths: list[Path], batch: int
) -> tuple[list[tuple[Path, Prediction]], list[tuple[Path, str]]]:
    """Answers and problems, under a bar on the terminal; of an interrupted run those that were found."""
    from rich.progress import Progress

    from grpo_tta.classify import classify
    from grpo_tta.images.read import load_image

    answers: list[tuple[Path, Prediction]] = []
    problems: list[tuple[Path, str]] = []
    console = make_console(stderr=True)
    with (
        contextlib.suppress(KeyboardInterrupt),
        Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        line = bar.add_task("images", total=len(paths))
        for number, found in classify(classifier, lambda number: load_image(paths[number]), len(paths), batch):
            if isinstance(found, str):
                problems.append((paths[number], found))
            else:
                answers.append((paths[number], found))
            bar.advance(line)
    return answers, problems


def _write_csv(answers: list[tuple[Path, Prediction]], problems: list[tuple[Path, str]]) -> None:
    columns = ["path", "label", "probability", "label_before", "probability_before", "error"]
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(columns)
    for path, a in answers:
        before = a.probabilities_before[a.label_before]
        rows.writerow([as_text(str(path)), a.label, f"{a.probability:.6g}", a.label_before, f"{before:.6g}", ""])
    for path, text in problems:
        rows.writerow([as_text(str(path)), "", "", "", "", as_text(text)])


def _print_answers(answers: list[tuple[Path, Prediction]], model: str, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    if not answers:
        return
    table = Table(header_style="bold")
    table.add_column("image", overflow="fold")
    table.add_column("label")
    table.add_column("probability", justify="right")
    table.add_column("zero-shot label", style="dim")
    table.add_column("probability", justify="right", style="dim")
    for path, answer in answers:
        changed = answer.label != answer.label_before
        label = Text(answer.label, "bold" if changed else "")
        before = answer.probabilities_before[answer.label_before]
        table.add_row(
            Text(as_text(str(path))),
            label,
            f"{100 * answer.probability:.1f} %",
            Text(answer.label_before),
            f"{100 * before:.1f} %",
        )
    console.print(table)
    forwards, backwards = (fmean(x) for x in zip(*((a.forwards, a.backwards) for _, a in answers), strict=True))
    told = f"Model {model}; {forwards:.0f} forward and {backwards:.0f} backward passes an image."
    if model == "nano-clip":
        told += " It knows drawings alone: for photographs name another --model (photo-clip, ViT-B-16/openai, ...)."
    console.print(Text(told, "dim"))


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
    # `images` has a limit of its own, told in a sentence.
    warnings.filterwarnings("ignore", message=".*decompression bomb.*")
    try:
        app()
    except UserError as error:
        typer.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
