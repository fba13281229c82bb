"""`grpo-tta bench`: methods measured side by side. Heavy imports happen inside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_tta.cli.bench_options import BenchOptions
from grpo_tta.cli.command import command_line, command_of
from grpo_tta.cli.loading import loading
from grpo_tta.cli.options import (
    class_names_of,
    make_console,
    number_of_batch,
    precision_of,
    ray_settings,
    read_batch,
    read_seeds,
    say,
    say_of_nano_clip,
    settings_of,
    split_list,
)
from grpo_tta.cli.report import report
from grpo_tta.errors import UserError, as_text, counted

if TYPE_CHECKING:
    from rich.console import Console

    from grpo_tta.bench.runs import RunSettings
    from grpo_tta.cluster.settings import RaySettings
    from grpo_tta.data.choose import Choice
    from grpo_tta.engine.interface import Method

NOT_FOR_WORKERS = ("workers", "task_share", "with_report")


@command_of(BenchOptions)
def bench(options: BenchOptions) -> None:
    """Measure methods on the nano suite, photographs, benchmarks or your own labelled images. Zero-shot is always beside."""
    ray = ray_settings(options, options.chunk)
    console = make_console()
    if options.data is not None or options.dataset:  # its own suite is of drawings
        say_of_nano_clip(_model(options))
    if ray:
        _bench_on_ray(options, ray)
    else:
        _bench_here(options, console)
    if options.with_report:
        report([Path(options.out)], Path(options.out) / "report", photos_root=options.photos_root)
    else:
        console.print(f"Records in {options.out}. Next: grpo-tta report {options.out} --out {options.out}/report", markup=False)


def _bench_here(options: BenchOptions, console: Console) -> None:
    with loading():
        from grpo_tta.backbones.base import load_backbone
        from grpo_tta.backbones.hardware import set_threads
        from grpo_tta.baselines.fitting import fitting_methods
        from grpo_tta.baselines.teacher import taught_methods
        from grpo_tta.bench.records import read_errors
        from grpo_tta.bench.runner import task_policy
        from grpo_tta.bench.table import TablePlan, run_table
        from grpo_tta.bench.workers import worker_commands
        from grpo_tta.data.choose import choose_tasks
        from grpo_tta.engine.in_flight import choose_batch

    set_threads(options.threads)
    precision = precision_of(options.dtype, options.device, say)
    if options.workers > 1 and options.labels_file is not None and options.labels_file.is_fifo():
        raise UserError("Worker processes cannot read a pipe; give --labels-file a file on disk, or leave --workers away.")
    tasks = choose_tasks(_choice(options))
    _print_notes(note for task in tasks for note in task.notes)
    batch = read_batch(options.batch)
    settings = _run_settings(options, 1 if batch == "auto" else batch)
    backbone = load_backbone(
        _model(options),
        device=options.device,
        download=options.download,
        dtype=precision,
        weights=options.weights,
        class_names=class_names_of(options.class_names),
    )
    methods = _methods(options)
    if options.teacher:
        teacher = load_backbone(options.teacher, device=options.device, download=options.download)
        methods += taught_methods(_names(options), teacher)
    methods, left_out = fitting_methods(methods, backbone, everything="all" in _names(options))
    _print_notes(left_out)
    if batch == "auto":
        settings = replace(settings, batch=choose_batch(task_policy(backbone, tasks[0]), methods, processes=options.workers))
        say(f"--batch auto: {counted(settings.batch, 'image')} in flight.")
    of_workers = replace(options, batch=str(settings.batch))
    plan = TablePlan(
        seeds=read_seeds(options.seeds) if options.seeds else [options.seed],
        expensive_limit=options.limit_heavy,
        workers=worker_commands(command_line(of_workers, NOT_FOR_WORKERS), options.workers) if options.workers != 1 else (),
    )
    folders = run_table(
        backbone,
        tasks,
        methods,
        Path(options.out),
        settings,
        console,
        plan,
    )
    if len(errors := read_errors(folders)):
        first = errors.iloc[0]
        message = f"{first['method']} on {first['image_id']}: {first['error']}"
        hold = "holds an error and counts" if len(errors) == 1 else "hold an error and count"
        text = f"{counted(len(errors), 'row')} {hold} as wrong. The first: {message}"
        console.print(as_text(text), style="red", markup=False)


def _bench_on_ray(options: BenchOptions, ray: RaySettings) -> None:
    from grpo_tta.backbones.base import check_dtype
    from grpo_tta.cluster.jobs import ModelName
    from grpo_tta.cluster.ray_data import bench_on_ray
    from grpo_tta.cluster.sources import TaskSource, manifest_source
    from grpo_tta.data.choose import choose_tasks
    from grpo_tta.data.tasks import SPLITS

    if options.threads is not None:
        raise UserError("With Ray the threads of each process are its --actor-cpus; leave out --threads.")
    weights = None if options.weights is None else str(options.weights.expanduser().absolute())
    named = class_names_of(options.class_names)
    model = ModelName(_model(options), options.device, options.download, check_dtype(options.dtype), weights, named)
    # Ray reads the user's own images itself, wherever they lie
    tasks = choose_tasks(_choice(options)) if options.data is None else []
    _print_notes(note for task in tasks for note in task.notes)
    settings = replace(_run_settings(options, number_of_batch(options.batch)), seed=options.seed)
    local_only = settings.shard != (0, 1) or options.workers > 1 or options.seeds or options.limit_heavy or options.teacher
    beside_data = options.limit is not None or options.corruptions or options.dataset
    if local_only or (options.data is not None and beside_data):
        raise UserError(
            "Ray shares the work out itself: leave out --shard, --workers, --seeds, --limit-heavy and --teacher, "
            "and beside --data also --limit, --corruptions and --dataset."
        )
    if options.data is None:
        bench_on_ray(model, TaskSource(tuple(tasks)), _methods(options), options.out, settings, ray)
    else:
        source = manifest_source(
            options.data,
            options.out,
            options.template,
            options.labels_file,
            split=None if options.split in SPLITS else options.split,
            domain=options.domain,
            allow_empty=options.allow_empty,
        )
        _print_notes(source.manifest.notes)
        bench_on_ray(model, source, _methods(options), options.out, settings, ray)


def _print_notes(notes: Iterable[str]) -> None:
    """What was left out of the data, each sentence once, on standard error."""
    for note in dict.fromkeys(notes):
        say(note)


def _choice(options: BenchOptions) -> Choice:
    from grpo_tta.data.choose import Choice

    return Choice(
        suite=options.suite,
        tasks=tuple(split_list(options.tasks)) if options.tasks else None,
        photos_root=options.photos_root,
        split=options.split,
        limit=options.limit,
        data=None if options.data is None else Path(options.data),
        labels_file=options.labels_file,
        template=options.template,
        datasets=tuple(split_list(options.dataset)) if options.dataset else (),
        root=options.root,
        official_split=options.official_split,
        corruptions=tuple(split_list(options.corruptions)) if options.corruptions else (),
        severities=tuple(split_list(options.severities)),
        download=options.download,
        domain=options.domain,
        allow_empty=options.allow_empty,
        allow_missing=options.allow_missing,
    )


def _model(options: BenchOptions) -> str:
    suite = "" if options.data is not None or options.dataset else options.suite
    if suite == "imagenet-sample" and not options.model:
        raise UserError("No shipped model knows ImageNet's 1,000 classes; name one with --model (see docs/imagenet-sample.md).")
    return options.model or ("photo-clip" if suite == "photos" or options.photos_root is not None else "nano-clip")


def _names(options: BenchOptions) -> list[str]:
    wanted = split_list(options.methods)
    return wanted if "all" in wanted or "zero-shot" in wanted else ["zero-shot", *wanted]


def _methods(options: BenchOptions) -> list[Method]:
    """The methods that were named and, where `--set` was given, one more row."""
    from grpo_tta.baselines.registry import choose_methods

    return choose_methods(_names(options)) + own_rows(options.assignments)


def own_rows(assignments: Sequence[str]) -> list[Method]:
    """One method: grpo-tta with these assignments, which are also in its name. None where there are none.

    Raises:
        UserError: an unknown setting, or a value that cannot be read or does not fit.
    """
    if not assignments:
        return []
    from grpo_tta.method.grpo import grpo_method

    return [grpo_method(settings_of("default", assignments), f"grpo-tta[{','.join(assignments)}]")]


def _run_settings(options: BenchOptions, batch: int) -> RunSettings:
    from grpo_tta.bench.runs import RunSettings

    shard, share = read_share(options.shard), read_share(options.task_share)
    return RunSettings(batch=batch, chunk=options.chunk, shard=shard, task_share=share)


def read_share(text: str) -> tuple[int, int]:
    """`i/n`.

    Raises:
        UserError: it is written otherwise.
    """
    first, slash, count = text.partition("/")
    if not slash or not first.isdigit() or not count.isdigit():
        raise UserError(f"Shard {text!r} cannot be read; write i/n, for example 0/2.")
    return int(first), int(count)
