"""CIFAR-10 and CIFAR-100 through torchvision, and their published corrupted test sets (CIFAR-10-C, CIFAR-100-C)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from grpo_tta.data.public.official import open_torchvision
from grpo_tta.data.public.spec import Benchmark, Fault, Listing, Part, find_folder, no_tuning_part, wrong_number
from grpo_tta.errors import UserError

_TEST = 10_000
"""Images of either test set, and of one severity in a file of the corrupted ones."""


def read_cifar(benchmark: Benchmark, root: Path, part: Part, *, dataset: str) -> Listing:
    """
    Args:
        dataset: CIFAR10 or CIFAR100; torchvision checks its files by their MD5 before it unpickles them.

    Raises:
        UserError: not there, or another file than the published one.
    """
    data = open_torchvision(benchmark.title, dataset, root, {"train": part == "tuning"})
    expected = benchmark.images if part == "reporting" else benchmark.tuning_images
    problems = wrong_number("images", len(data), expected or len(data))
    problems += wrong_number("classes", len(data.classes), benchmark.classes)
    name = "test" if part == "reporting" else "train"
    return Listing(
        tuple(c.replace("_", " ") for c in data.classes),
        [f"{name}/{number:05d}" for number in range(len(data))],
        [int(label) for label in data.targets],
        lambda number: Image.fromarray(data.data[number]),
        root,
        f"{name} part, torchvision's {dataset}",
        tuple(problems),
    )


def read_cifar_c(
    benchmark: Benchmark, root: Path, part: Part, *, clean: Benchmark, corruption: str, severity: int, size: int = _TEST
) -> Listing:
    """One corruption at one severity: rows (severity - 1) * 10,000 and on of CORRUPTION.npy, read as they are asked for.

    Class names and their order come from the clean test set beside, whose labels must equal labels.npy.

    Args:
        clean: CIFAR-10 or CIFAR-100.
        size: images of one severity.

    Raises:
        UserError: the file or the clean test set is not there, or is no such array.
    """
    no_tuning_part(benchmark, part)
    folder = find_folder(benchmark, root, lambda place: (place / "labels.npy").is_file())
    known = clean.read(clean, root, part)
    path = folder / f"{corruption}.npy"
    if not path.is_file():
        raise UserError(f"{path}: no such file; extract {benchmark.title} again.")
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: truncated or damaged ({error}); extract {benchmark.title} again.") from None
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3):
        raise UserError(f"{path}: holds {images.dtype} {images.shape}, not uint8 images of 32 x 32 x 3; extract it again.")
    problems = list(known.faults)
    problems += wrong_number(f"images in {path.name}", len(images), 5 * size)
    problems += wrong_number("labels in labels.npy", len(labels), 5 * size)
    start = (severity - 1) * size
    if labels[start : start + size].tolist() != list(known.labels):
        problems.append(Fault(f"labels.npy does not agree with the labels of {clean.title}"))
    return Listing(
        known.classes,
        [f"{corruption}/{severity}/{number:05d}" for number in range(max(0, min(size, len(images) - start)))],
        [int(label) for label in labels[start : start + size]],
        lambda number: Image.fromarray(np.array(images[start + number])),
        folder,
        f"{corruption}, severity {severity}, {path}",
        tuple(problems),
    )
