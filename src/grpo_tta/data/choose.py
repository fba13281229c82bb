"""Which tasks `bench` runs: the nano suite, photographs, benchmarks, or a user's own images, corrupted or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from grpo_tta.backbones.prompts import DEFAULT_TEMPLATE
from grpo_tta.data import nano
from grpo_tta.data.custom import custom_tasks
from grpo_tta.data.imagenet_sample import imagenet_sample_tasks
from grpo_tta.data.photos import photo_tasks
from grpo_tta.data.public.corrupted import corrupted_tasks
from grpo_tta.data.public.load import benchmark_tasks, corruptions_named, part_named
from grpo_tta.data.streams import stream_tasks
from grpo_tta.data.tasks import Task, nano_tasks
from grpo_tta.errors import UserError


@final
@dataclass(frozen=True)
class Choice:
    """
    Attributes:
        suite, tasks: nano, photos, imagenet-sample or streams, and which of its tasks (None for its usual ones).
        photos_root: folder that holds the photographs of the suites photos, imagenet-sample and streams.
        split: reporting or tuning; of a user's own images, the folder of a part.
        limit: images per task.
        data, labels_file: a user's own images and the names of their labels.
        template: prompt of benchmarks and own images, or "coop".
        datasets, root: benchmarks and the folder that holds them.
        official_split: torchvision's own test split of the benchmarks.
        corruptions, severities: as the user wrote them; none for the images as they are.
        download: benchmarks may be fetched.
        domain: of a user's own images in DOMAIN/CLASS folders, or "all" for a task of each.
        allow_empty: of a user's own images, a folder without an image is a class all the same.
        allow_missing: an incomplete copy of a benchmark is run.
    """

    suite: str = "nano"
    tasks: tuple[str, ...] | None = None
    photos_root: Path | None = None
    split: str = "reporting"
    limit: int | None = None
    data: Path | None = None
    labels_file: Path | None = None
    template: str = DEFAULT_TEMPLATE
    datasets: tuple[str, ...] = ()
    root: Path | None = None
    official_split: bool = False
    corruptions: tuple[str, ...] = ()
    severities: tuple[str, ...] = ("5",)
    download: bool = False
    domain: str | None = None
    allow_empty: bool = False
    allow_missing: bool = False


def choose_tasks(choice: Choice) -> list[Task]:
    """
    Raises:
        UserError: options that do not go together, unknown names, or data that are missing or wrong.
    """
    names, severities = corruptions_named(choice.corruptions, choice.severities)
    if choice.data is not None and choice.datasets:
        raise UserError("--data and --dataset were both given; use one of them.")
    if choice.data is None and (choice.domain is not None or choice.allow_empty):
        raise UserError("--domain and --allow-empty belong to your own images; name --data.")
    if choice.datasets:
        if choice.root is None:
            raise UserError("--dataset needs --root, the folder that holds the benchmarks.")
        return benchmark_tasks(
            choice.datasets,
            choice.root,
            part=part_named(choice.split),
            template=choice.template,
            limit=choice.limit,
            corruptions=names,
            severities=severities,
            official=choice.official_split,
            download=choice.download,
            allow_missing=choice.allow_missing,
        )
    if choice.root is not None or choice.official_split or choice.allow_missing:
        raise UserError("--root, --official-split and --allow-missing belong to --dataset; name one.")
    if choice.data is None and (choice.labels_file is not None or choice.template != Choice.template):
        raise UserError("--labels-file and --template belong to your own images or to --dataset; name --data or --dataset.")
    if choice.photos_root is not None and choice.suite not in ("photos", "imagenet-sample", "streams"):
        raise UserError("--photos-root belongs to --suite photos, imagenet-sample or streams.")
    if choice.data is not None:
        tasks = custom_tasks(
            choice.data,
            template=choice.template,
            labels_file=choice.labels_file,
            limit=choice.limit,
            split=None if choice.split in nano.SPLITS else choice.split,
            domain=choice.domain,
            allow_empty=choice.allow_empty,
        )
    elif choice.suite == "nano":
        tasks = nano_tasks(choice.tasks, choice.split, choice.limit)
    elif choice.suite == "photos":
        tasks = photo_tasks(choice.photos_root, choice.tasks, choice.split, choice.limit)
    elif choice.suite == "imagenet-sample":
        tasks = imagenet_sample_tasks(choice.photos_root, choice.tasks, choice.split, choice.limit)
    elif choice.suite == "streams":
        tasks = stream_tasks(choice.photos_root, choice.tasks, choice.split, choice.limit)
    else:
        raise UserError(
            f"Unknown suite {choice.suite!r}; use nano, photos, imagenet-sample, streams, --dataset for benchmarks, or --data "
            "for your own images."
        )
    return corrupted_tasks(tasks, names, severities) if names else tasks
