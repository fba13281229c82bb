"""What a benchmark is, what was found of it on disk, and the refusals that all readers share."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, final

from grpo_tta.backbones.prompts import DEFAULT_TEMPLATE
from grpo_tta.data.tasks import Kind
from grpo_tta.errors import UserError
from grpo_tta.images.inputs import ImageLike

Part = Literal["reporting", "tuning"]
UNKNOWN_LICENCE = "not stated by its authors; research use"
SHOWN = 5
"""So many names of missing files are written out; the rest is counted."""


@final
class NotFoundError(UserError):
    """There is no copy of the benchmark, so that one could be fetched."""


@final
@dataclass(frozen=True)
class Fault:
    """What is wrong with a copy.

    Attributes:
        text: a sentence; with `{}` where names are given.
        names: of all that it holds for, files for example.
        missing: something is not there, and what is there is right.
    """

    text: str
    names: tuple[str, ...] = ()
    missing: bool = False

    @property
    def count(self) -> int:
        return len(self.names) or 1

    def lines(self) -> list[str]:
        """The sentence for the first few names, and a count of the rest."""
        if not self.names:
            return [self.text]
        shown = [self.text.format(name) for name in self.names[:SHOWN]]
        return shown + ([f"and {len(self.names) - SHOWN:,} more like this"] if len(self.names) > SHOWN else [])


@final
@dataclass(frozen=True)
class Listing:
    """A benchmark as it lies on disk; no image has been opened.

    Attributes:
        classes: names for the prompts, in the order of the labels.
        ids: one per image, the same in every layout.
        labels: one per image.
        read: number of an image -> its file, or the decoded image.
        where: the folder of the images.
        origin: which split of what, in words.
        faults: what is wrong; empty when all is well.
        absent: numbers of the images that are listed and not on disk.
    """

    classes: tuple[str, ...]
    ids: Sequence[str]
    labels: Sequence[int]
    read: Callable[[int], ImageLike]
    where: Path
    origin: str
    faults: tuple[Fault, ...]
    absent: frozenset[int] = frozenset()

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, a sentence each."""
        return tuple(line for fault in self.faults for line in fault.lines())


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
        annotation: the data set's own list of class names, where paths do not hold the class.
        names_in: annotation file -> the class names in it, in the order of the labels.
        own_template: CoOp's hand-written one.
        downloads: (class of torchvision.datasets, its options) that `--download` runs.
        official: torchvision's own test split.
        root_itself: the root may be the folder of the images.
        check_words: what `grpo-tta datasets check` calls it, where that is not its name.
        small_models: shipped models that read "a photo of a {}." of every class; they read 24 tokens.
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
    names_in: Callable[[Path], list[str]] | None = None
    own_template: str = DEFAULT_TEMPLATE
    downloads: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = ()
    official: Official | None = None
    root_itself: bool = True
    check_words: str = ""
    small_models: tuple[str, ...] = ("nano-clip", "photo-clip")


class CellReader(Protocol):
    """Reads one corruption at one severity."""

    def __call__(self, benchmark: Benchmark, root: Path, part: Part, *, corruption: str, severity: int) -> Listing: ...


@final
@dataclass(frozen=True)
class Family:
    """A published corrupted test set of fifteen corruptions and five severities each: a benchmark per cell.

    Attributes:
        name, title: of the family.
        clean: the benchmark that was corrupted.
        read: reads one cell.
        folders: (corruption, severity) -> folders of the images below the root, tried in turn.
        source, layout, licence: as in `Benchmark`.
    """

    name: str
    title: str
    clean: Benchmark
    read: CellReader
    folders: Callable[[str, int], tuple[str, ...]]
    source: tuple[str, ...]
    layout: tuple[str, ...]
    licence: str

    def cell(self, corruption: str, severity: int) -> Benchmark:
        """One corruption at one severity as a benchmark of its own."""
        return Benchmark(
            name=f"{self.name}-{corruption}-{severity}",
            title=f"{self.title} ({corruption}, severity {severity})",
            kind="shifted",
            classes=self.clean.classes,
            images=self.clean.images,
            per_class=self.clean.per_class,
            file_name=self.clean.file_name,
            read=partial(self.read, corruption=corruption, severity=severity),
            folders=self.folders(corruption, severity),
            source=self.source,
            layout=self.layout,
            licence=self.licence,
            root_itself=False,  # a folder of clean images looks just like one of corrupted ones
            check_words=f"{self.name} --corruptions {corruption} --severities {severity}",
            small_models=self.clean.small_models,
        )


def from_coop(files: str) -> str:
    """Where to download files that CoOp publishes."""
    return f"{files} from CoOp's page github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"


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
        f"'{check_command(benchmark, root)}' says what to download and where to put it."
    )


def check_command(benchmark: Benchmark, root: Path, *, official: bool = False) -> str:
    """The command that says everything that is wrong with a copy."""
    words = ["grpo-tta datasets check", benchmark.check_words or benchmark.name, "--root", shlex.quote(str(root))]
    return " ".join(words + ["--official-split"] * official)


def wrong_number(what: str, found: int, expected: int, *, missing: bool = False) -> list[Fault]:
    """
    Args:
        missing: too few are no more than an incomplete copy.
    """
    if found == expected:
        return []
    return [Fault(f"{found} {what} instead of {expected}", missing=missing and found < expected)]


def name_all(sentence: str, names: Iterable[str], *, missing: bool = False) -> list[Fault]:
    """`sentence`, which holds one `{}`, of each of these names, where there are any."""
    found = tuple(names)
    return [Fault(sentence, found, missing)] if found else []
