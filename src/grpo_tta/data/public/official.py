"""What torchvision knows of the benchmarks: its downloads, and its own test splits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from grpo_tta.data.public.spec import Benchmark, Listing, NotFoundError, wrong_number
from grpo_tta.errors import UserError
from grpo_tta.images.read import to_rgb


def _make(dataset: str, root: Path, options: Mapping[str, Any]) -> Any:
    from torchvision import datasets

    return getattr(datasets, dataset)(str(root), **options)


def open_torchvision(title: str, dataset: str, root: Path, options: Mapping[str, Any]) -> Any:
    """One of torchvision's data sets, from what is on disk.

    Raises:
        NotFoundError: it is not there, or damaged.
    """
    try:
        return _make(dataset, root, options)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise NotFoundError(f"{title}: torchvision's {dataset} finds no whole copy under {root} ({error}).") from None


def fetch(benchmark: Benchmark, root: Path) -> None:
    """Downloads with torchvision what it can, into its own layout below `root`, which the readers know as well.

    Raises:
        UserError: the download failed.
    """
    root.mkdir(parents=True, exist_ok=True)
    for dataset, options in benchmark.downloads:
        try:
            _make(dataset, root, {**dict(options), "download": True})
        except (RuntimeError, OSError, ValueError, ImportError) as error:
            cause = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(
                f"{benchmark.title} could not be downloaded ({cause[0]}); by hand: {'; '.join(benchmark.source)}."
            ) from None


def read_official(benchmark: Benchmark, root: Path) -> Listing:
    """torchvision's test split and class names. Not what the field reports on: CoOp's split and names differ.

    Raises:
        UserError: torchvision has no such split, or it is not on disk.
    """
    official = benchmark.official
    if official is None:
        raise UserError(f"torchvision has no test split of {benchmark.title}; leave --official-split away.")
    data = open_torchvision(benchmark.title, official.dataset, root, dict(official.options))
    labels = [int(label) for label in data._labels]
    problems = wrong_number("classes", len(data.classes), benchmark.classes)
    problems += wrong_number("images in torchvision's test split", len(data), official.images)

    def read(number: int) -> Image.Image:
        try:
            return to_rgb(data[number][0])
        except OSError as error:
            raise UserError(f"{benchmark.title}, image {number}: missing or damaged ({error}); extract it again.") from None

    return Listing(
        tuple(name.replace("_", " ") for name in data.classes),
        [f"official/{number:05d}" for number in range(len(data))],
        labels,
        read,
        root,
        f"torchvision's own test split ({official.dataset}), not the field's",
        tuple(problems),
    )
