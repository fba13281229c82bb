"""`grpo-tta datasets check`: is a benchmark whole, in the right order and readable, and if not, what to get from where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import final

from PIL import Image

from grpo_tta.data.custom import custom_task
from grpo_tta.data.public.load import list_benchmark
from grpo_tta.data.public.spec import Benchmark, Part, name_all
from grpo_tta.errors import UserError, sentence
from grpo_tta.images.inputs import to_image

_WORKERS = 4
CUSTOM = ("folder", "csv", "parquet")


@final
@dataclass(frozen=True)
class Check:
    """
    Attributes:
        name: of the benchmark.
        where: the folder that was read; None if nothing was found.
        origin: which split of what.
        classes, images: as found.
        decoded: images that could be opened; 0 where that was not tried.
        problems: what is wrong, a sentence each.
        source, layout, licence: what to download from where, and the files as they should lie.
        notes: what was left out and is no problem, a sentence each.
    """

    name: str
    where: str | None
    origin: str
    classes: int
    images: int
    decoded: int
    problems: tuple[str, ...]
    source: tuple[str, ...]
    layout: tuple[str, ...]
    licence: str
    notes: tuple[str, ...] = ()


def check_benchmark(
    benchmark: Benchmark,
    root: Path,
    part: Part = "reporting",
    *,
    decode: bool = True,
    official: bool = False,
    download: bool = False,
    progress: Callable[[int], None] = lambda images: None,
) -> Check:
    """Counts, class order, splits, and (with `decode`) every image; what is wrong is reported, not raised."""
    how = (benchmark.source, benchmark.layout, benchmark.licence)
    try:
        listing = list_benchmark(benchmark, root, part, official=official, download=download)
    except UserError as error:
        return Check(benchmark.name, None, "", 0, 0, 0, (str(error),), *how)
    problems = list(listing.problems)
    decoded = 0
    if decode:
        there = [number for number in range(len(listing.ids)) if number not in listing.absent]
        damaged = _damaged([listing.ids[n] for n in there], lambda n: to_image(listing.read(there[n])), progress)
        decoded = len(there) - len(damaged)
        problems += [line for fault in name_all("{}", damaged) for line in fault.lines()]
    where, classes, images = str(listing.where), len(listing.classes), len(listing.ids)
    return Check(benchmark.name, where, listing.origin, classes, images, decoded, tuple(problems), *how)


def check_custom(kind: str, path: Path, *, decode: bool = True, progress: Callable[[int], None] = lambda images: None) -> Check:
    """The same for a user's own folder, CSV or Parquet file."""
    layout = {
        "folder": ("FOLDER/CLASS/image.jpg",),
        "csv": ("a header path,label, then a row for each image; paths relative to the file",),
        "parquet": ("the columns image (encoded bytes) and label, and image_id if you like",),
    }[kind]
    how = (("your own images",), layout, "yours")
    right = (
        path.is_dir() if kind == "folder" else path.suffix.lower() in {"csv": (".csv",), "parquet": (".parquet", ".pq")}[kind]
    )
    try:
        if path.exists() and not right:
            raise UserError(f"{path} is no {kind}; name its kind: {', '.join(CUSTOM)}.")
        task = custom_task(path, template="{}")
    except UserError as error:
        return Check(kind, None, "", 0, 0, 0, (str(error),), *how)
    damaged = _damaged(task.image_ids, lambda number: task.load(number)[0], progress) if decode else []
    count = len(task.image_ids)
    decoded = count - len(damaged) if decode else 0
    problems = tuple(line for fault in name_all("{}", damaged) for line in fault.lines())
    return Check(kind, str(path), "all images", len(task.classes), count, decoded, problems, *how, task.notes)


def _damaged(ids: Sequence[str], read: Callable[[int], Image.Image], progress: Callable[[int], None]) -> list[str]:
    """A sentence for each image that cannot be decoded; a few threads, since decoding leaves the interpreter free."""

    def attempt(number: int) -> str | None:
        try:
            read(number)
        except Exception as error:
            text = sentence(error)
            return text if ids[number] in text else f"{ids[number]}: {text}"
        return None

    found = []
    with ThreadPoolExecutor(_WORKERS) as pool:
        for first in range(0, len(ids), 256):  # in pieces, so that no list of 50,000 futures is held
            numbers = range(first, min(first + 256, len(ids)))
            found += [text for text in pool.map(attempt, numbers) if text is not None]
            progress(len(numbers))
    return found
