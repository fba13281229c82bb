"""What a benchmark is, what was found of it on disk, and the refusals that all readers share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from PIL import Image

from grpo_tta.data.tasks import Kind
from grpo_tta.errors import UserError

Part = Literal["reporting", "tuning"]
FIELD_TEMPLATE = "a photo of a {}."
SHOWN = 5
"""So many names of missing files are told; the rest is counted."""


@final
class NotFoundError(UserError):
    """There is no copy of the benchmark, so that one could be fetched."""


@final
@dataclass(frozen=True)
class Listing:
    """A benchmark as it lies on disk; no image has been opened.

    Attributes:
        classes: names for the prompts, in the order of the labels.
        ids: one per image, the same in every layout.
        labels: one per image.
        read: number of an image -> the decoded image.
        where: the folder of the images.
        origin: which split of what, in words.
        problems: what is wrong, a sentence each; empty when all is well.
    """

    classes: tuple[str, ...]
    ids: Sequence[str]
    labels: Sequence[int]
    read: Callable[[int], Image.Image]
    where: Path
    origin: str
    problems: tuple[str, ...]


@final
@dataclass(frozen=True)
class Official:
    """A test split of torchvision's own, other than the one the field reports on.

    Attributes:
        dataset: class of `torchvision.datasets`.
        options: its arguments, besides root.
        images: images in it.
    """

    dataset: str
    options: tuple[tuple[str, Any], ...]
    images: int


@final
@dataclass(frozen=True)
class Benchmark:
    """
    Attributes:
        name: on the command line.
        title: in sentences.
        kind: decides which means its tasks enter.
        classes, images: official numbers of the part that is reported on.
        read: (benchmark, root, part) -> what is on disk.
        folders: of the images below the root, tried in turn: CoOp's, TPT's, torchvision's.
        source: what to download from where, a line each.
        layout: the files as CoOp lays them, a line each.
        licence: as far as it is known.
        zero_shot: top-1 accuracy in % that others publish for CLIP ViT-B/16 with one template.
        per_class: images of every class, where they are the same.
        file_name: of image n = 1, 2, … where files are numbered through, for example "val_{:08d}".
        split_file: CoOp's list of train, val and test images.
        tuning_images: images of its val part.
        class_of: path in the split file -> the class name it must carry there.
        annotation: the data set's own list of class names, where paths do not tell the class.
        own_template: CoOp's hand-written one.
        downloads: (class of torchvision.datasets, its options) that `--download` runs.
        official: torchvision's own test split.
        root_itself: the root may be the folder of the images.
    """

    name: str
    title: str
    kind: Kind
    classes: int
    images: int
    read: Callable[[Benchmark, Path, Part], Listing]
    folders: tuple[str, ...]
    source: tuple[str, ...]
    layout: tuple[str, ...]
    licence: str
    zero_shot: float | None = None
    per_class: int | None = None
    file_name: str | None = None
    split_file: str = ""
    tuning_images: int | None = None
    class_of: Callable[[str], str] | None = None
    annotation: str = ""
    own_template: str = FIELD_TEMPLATE
    downloads: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = ()
    official: Official | None = None
    root_itself: bool = True


def no_tuning_part(benchmark: Benchmark, part: Part) -> None:
    """
    Raises:
        UserError: the tuning part was asked for of a benchmark that is a test set only.
    """
    if part != "reporting":
        raise UserError(f"{benchmark.title} is a test set only; there is nothing to tune on, use --split reporting.")


def find_folder(benchmark: Benchmark, root: Path, fits: Callable[[Path], bool]) -> Path:
    """The first of the benchmark's folders, or the root itself where that is allowed, that `fits`.

    Raises:
        NotFoundError: there is none.
    """
    check_root(root)
    for place in (*benchmark.folders, *(["."] if benchmark.root_itself else [])):
        if (root / place).is_dir() and fits(root / place):
            return root / place
    raise not_found(benchmark, root)


def check_root(root: Path) -> None:
    """
    Raises:
        NotFoundError: the root is no folder.
    """
    if not root.is_dir():
        raise NotFoundError(f"{root}: no such folder; check --root.")


def not_found(benchmark: Benchmark, root: Path) -> NotFoundError:
    return NotFoundError(
        f"The images of {benchmark.title} were not found under {root} (looked for {', '.join(benchmark.folders)}); "
        f"'grpo-tta datasets check {benchmark.name} --root {root}' says what to download and where to put it."
    )


def wrong_number(what: str, found: int, expected: int) -> list[str]:
    return [] if found == expected else [f"{found} {what} instead of {expected}"]


def name_some(sentence: str, names: Iterable[str]) -> list[str]:
    """`sentence`, which holds one `{}`, for the first few names, and a count of the rest."""
    names = list(names)
    told = [sentence.format(name) for name in names[:SHOWN]]
    if len(names) > SHOWN:
        told.append(f"and {len(names) - SHOWN} more like this")
    return told
