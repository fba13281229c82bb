"""The suite imagenet-sample: 500 photographs of 500 ImageNet classes, with all 1,000 as labels, clean and corrupted.

Reads `imagenet-sample.parquet` (columns image_id, label and image; the label is a WordNet id) from a folder that the user
names. Every photograph is first cut to what ImageNet-C corrupts, the central 224 pixels; the corruptions are made on the
fly. Classes are split by a hash: those of 200 photographs are for choosing settings, the others for numbers that are
published. Every task has photographs in an order of its own, fixed by its name, so that the first N are a fair sample.

The photographs may be among a published network's training images: differences between methods mean something here, levels
do not.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from grpo_tta.backbones.imagenet_classes import class_names, wordnet_ids
from grpo_tta.backbones.prompts import DEFAULT_TEMPLATE
from grpo_tta.data.photos import ENSEMBLE, SEVERITIES, Photos, read_file
from grpo_tta.data.public.corrupted import CORRUPTIONS, centre_crop, corrupt
from grpo_tta.data.tasks import Kind, Task, check_limit, check_split, suite_source
from grpo_tta.errors import UserError

SUITE = "imagenet-sample"
FILE = "imagenet-sample.parquet"
TUNING = 0.4
"""Share of the classes whose photographs are for tuning."""


def names_of_tasks() -> dict[str, Kind]:
    """All tasks of the suite and their kinds, in the order of the tables."""
    corrupted: dict[str, Kind] = {f"{name}-{severity}": "shifted" for name in CORRUPTIONS for severity in SEVERITIES}
    return {"clean": "source", **corrupted}


def imagenet_sample_tasks(
    root: Path | None, names: Sequence[str] | None = None, split: str = "reporting", limit: int | None = None
) -> list[Task]:
    """Tasks of the suite, all of them by default; cut to the first `limit` photographs.

    Raises:
        UserError: no root, unknown task or split, a limit below one, or a file that is missing, not readable or holds another
            class than ImageNet's.
    """
    if root is None:
        raise UserError(f"--suite {SUITE} needs --photos-root, the folder that holds {FILE} (see docs/imagenet-sample.md).")
    known = check_split(split)
    check_limit(limit)
    tasks = names_of_tasks()
    wanted = list(tasks) if names is None or list(names) == ["all"] else list(dict.fromkeys(names))
    unknown = [name for name in wanted if name not in tasks]
    if unknown or not wanted:
        cause = f"Unknown task {unknown[0]!r}" if unknown else "No task was named"
        raise UserError(f"{cause}; choose all, clean or CORRUPTION-SEVERITY, such as gaussian_noise-3.")
    photos = read_file(root / FILE, lambda labels: of_split(labels, known))
    if strange := sorted(set(photos.labels) - set(wordnet_ids())):
        raise UserError(f"{root / FILE}: the label {strange[0]!r} is none of ImageNet's 1,000 WordNet ids.")
    return [_task(name, tasks[name], photos, split, limit) for name in wanted]


def of_split(labels: Sequence[str], split: str) -> np.ndarray:
    """Rows of a split, ascending. Classes are ordered by a hash of their label, and the first 40 % are for tuning."""
    ordered = sorted(set(labels), key=lambda label: hashlib.blake2b(label.encode(), digest_size=8).digest())
    tuning = set(ordered[: round(TUNING * len(ordered))])
    return np.array([row for row, label in enumerate(labels) if (label in tuning) == (split == "tuning")], dtype=int)


def _task(name: str, kind: Kind, photos: Photos, split: str, limit: int | None) -> Task:
    number_of = {label: number for number, label in enumerate(wordnet_ids())}
    rng = np.random.default_rng([zlib.crc32(name.encode()), zlib.crc32(split.encode())])
    rows = [int(row) for row in rng.permutation(len(photos.ids))][:limit]
    corruption, _, severity = name.rpartition("-")

    def load(number: int) -> tuple[Image.Image, int]:
        row = rows[number]
        image = centre_crop(photos.image(row))
        if corruption:
            image = corrupt(image, corruption, int(severity), photos.ids[row])
        return image, number_of[photos.labels[row]]

    return Task(
        name,
        kind,
        tuple(class_names().values()),
        DEFAULT_TEMPLATE,
        ENSEMBLE,
        [f"{SUITE}/{name}/{split}/{photos.ids[row]}" for row in rows],
        load,
        repeated_names=True,
        source=suite_source(SUITE, name, split, limit),
    )
