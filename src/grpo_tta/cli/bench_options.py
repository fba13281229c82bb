"""The options of `grpo-tta bench`, declared once: the command's parameters, and what its worker processes are given."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, final

import typer

from grpo_tta.cli.options import (
    AutoBatch,
    BenchModel,
    ClassNames,
    Device,
    Download,
    Part,
    Precision,
    RayOptions,
    Seed,
    Threads,
    Weights,
)


@final
@dataclass(frozen=True, kw_only=True)
class BenchOptions(RayOptions):
    """What `grpo-tta bench` takes."""

    suite: Annotated[
        str,
        typer.Option(
            help="nano (shipped), photos or imagenet-sample (need --photos-root), streams (with or without it). Not used with "
            "--data or --dataset."
        ),
    ] = "nano"
    photos_root: Annotated[
        Path | None, typer.Option(help="Folder of the photographs of --suite photos, imagenet-sample or streams.")
    ] = None
    dataset: Annotated[
        str, typer.Option(help="Comma-separated names from 'grpo-tta datasets', or fifteen for all of these. Needs --root.")
    ] = ""
    root: Annotated[Path | None, typer.Option(help="Folder that holds the benchmarks of --dataset.")] = None
    data: Annotated[
        str | None, typer.Option(help="Your own: a folder per class, a CSV of path,label, or Parquet with image,label.")
    ] = None
    labels_file: Annotated[
        Path | None, typer.Option(help="Class names of --data, one per line, or a .json of label and name.")
    ] = None
    template: Annotated[
        str, typer.Option(help="Prompt of --data and --dataset with {} for the label. coop: CoOp's own of each benchmark.")
    ] = "a photo of a {}."
    corruptions: Annotated[
        str, typer.Option(help="Comma-separated names, or all fifteen of ImageNet-C. Made on the fly, except for the -c sets.")
    ] = ""
    severities: Annotated[str, typer.Option(help="Of the corruptions: comma-separated, 1 to 5.")] = "5"
    official_split: Annotated[bool, typer.Option("--official-split", help="torchvision's own test split of --dataset.")] = False
    methods: Annotated[str, typer.Option(help="all, or comma-separated names.")] = "all"
    assignments: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Add one row: grpo-tta with this setting, for example group=Nucleus(mass=0.9) or reward=FILE.py:NAME. "
            "May be repeated; all of them make one row.",
        ),
    ] = field(default_factory=list)
    tasks: Annotated[str, typer.Option(help="all, or comma-separated tasks of the suite. Default: all but the streams.")] = ""
    split: Annotated[
        str, typer.Option(help="reporting or tuning. Of --data: the folder of a part, such as Testing, in place of the whole.")
    ] = "reporting"
    domain: Annotated[
        str | None, typer.Option(help="Of --data in DOMAIN/CLASS folders: the folder of one domain, or all for a task of each.")
    ] = None
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Of --data: a class folder without an image is a class all the same.")
    ] = False
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Run an incomplete copy of --dataset. The records and the report say so.")
    ] = False
    model: BenchModel = ""
    weights: Weights = None
    class_names: ClassNames = None
    seed: Seed = 0
    seeds: Annotated[str, typer.Option(help="Instead of --seed: comma-separated. Each seed is one run, in OUT/seed-N.")] = ""
    limit: Annotated[int | None, typer.Option(help="Images per task.")] = None
    limit_heavy: Annotated[
        int | None,
        typer.Option(help="Images per task for expensive methods: over 64 passes per image, a backward pass counted twice."),
    ] = None
    shard: Annotated[str, typer.Option(help="i/n: every n-th part of each task. Episodic methods only.")] = "0/1"
    batch: AutoBatch = "16"
    chunk: Part = 128
    workers: Annotated[int, typer.Option(help="Processes that share the tasks and the cores between them.")] = 1
    task_share: Annotated[str, typer.Option(help="i/n: every n-th task, for processes that share a folder.")] = "0/1"
    teacher: Annotated[str, typer.Option(help="A second model as reward, for methods that take one (rlcf, rlcf-full).")] = ""
    out: Annotated[str, typer.Option(help="Folder of the records. An existing run is resumed.")] = "runs/bench"
    with_report: Annotated[bool, typer.Option("--report", help="Write the report into OUT/report at the end.")] = False
    device: Device = "auto"
    dtype: Precision = "float32"
    threads: Threads = None
    download: Download = False
