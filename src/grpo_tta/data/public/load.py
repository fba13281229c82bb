"""From names on the command line to tasks; what is incomplete or misordered is refused before an image is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from grpo_tta.backbones.prompts import DEFAULT_TEMPLATE
from grpo_tta.data.public.catalogue import BENCHMARKS, FAMILIES, FIFTEEN
from grpo_tta.data.public.corrupted import CORRUPTIONS, check_corruptions, corrupted_tasks
from grpo_tta.data.public.imagenet import ensemble_templates
from grpo_tta.data.public.official import fetch, read_official
from grpo_tta.data.public.spec import Benchmark, Listing, NotFoundError, Part, check_command
from grpo_tta.data.tasks import StoredImages, Task, check_split, evenly
from grpo_tta.errors import UserError, counted

ALL = "fifteen"
OWN_TEMPLATE = "coop"


def part_named(split: str) -> Part:
    """
    Raises:
        UserError: there is no such split.
    """
    return check_split(split)


def corruptions_named(names: Sequence[str], severities: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Corruptions ("all" for the fifteen) and severities as the user wrote them.

    Raises:
        UserError: an unknown one.
    """
    chosen = CORRUPTIONS if "all" in names else tuple(dict.fromkeys(names))
    numbers = []
    for text in severities:
        if not text.isdigit():
            raise UserError(f"Severity {text!r} does not exist; use 1, 2, 3, 4 or 5.")
        numbers.append(int(text))
    check_corruptions(chosen, numbers)
    return chosen, tuple(dict.fromkeys(numbers))


def names_meant(names: Sequence[str]) -> list[str]:
    """Each name once, "fifteen" standing for the fifteen."""
    return list(dict.fromkeys(n for name in names for n in ([b.name for b in FIFTEEN] if name == ALL else [name])))


def cells(name: str, corruptions: Sequence[str], severities: Sequence[int]) -> list[Benchmark]:
    """The benchmarks behind a name: itself, or the chosen cells of a corrupted family.

    Raises:
        UserError: unknown name.
    """
    if name in FAMILIES:
        return [FAMILIES[name].cell(c, s) for c in corruptions or CORRUPTIONS for s in severities]
    if name not in BENCHMARKS:
        raise UserError(f"Unknown data set {name!r}; choose from {ALL}, {', '.join((*BENCHMARKS, *FAMILIES))}.")
    return [BENCHMARKS[name]]


def list_benchmark(benchmark: Benchmark, root: Path, part: Part, *, official: bool = False, download: bool = False) -> Listing:
    """What is on disk, problems included.

    Args:
        official: torchvision's own test split in place of the field's.
        download: let torchvision fetch a benchmark that is not there, if it knows how.

    Raises:
        UserError: nothing there, or the download failed.
    """
    if official and part != "reporting":
        raise UserError("torchvision's own split is read for reporting only; leave --split away.")

    def read() -> Listing:
        return read_official(benchmark, root) if official else benchmark.read(benchmark, root, part)

    try:
        return read()
    except NotFoundError:
        if not (download and benchmark.downloads):
            raise
    fetch(benchmark, root)
    return read()


def to_task(
    benchmark: Benchmark,
    listing: Listing,
    *,
    template: str = DEFAULT_TEMPLATE,
    limit: int | None = None,
    source: Mapping[str, Any] | None = None,
    command: str = "",
    allow_missing: bool = False,
) -> Task:
    """
    Args:
        template: with `{}`; "coop" for CoOp's own of this benchmark; the field's common one by default.
        limit: at most so many images, taken evenly from the whole.
        source: of the task; none by default.
        command: that lists everything that is wrong; the shortest by default.
        allow_missing: an incomplete copy is a task all the same, of the images that are there and with another name.

    Raises:
        UserError: something is wrong with what is on disk, or the limit leaves nothing.
    """
    if faults := [fault for fault in listing.faults if not (allow_missing and fault.missing)]:
        count = sum(fault.count for fault in faults) - 1
        more = f" (and {count:,} more)" if count else ""
        remedy = (
            "put that right, or run what is there with --allow-missing" if all(f.missing for f in faults) else "put that right"
        )
        raise UserError(
            f"{benchmark.title} in {listing.where}: {faults[0].lines()[0]}{more}; {remedy}. "
            f"'{command or f'grpo-tta datasets check {benchmark.name}'}' lists everything that is wrong."
        )
    there = [number for number in range(len(listing.ids)) if number not in listing.absent]
    if not there:
        raise UserError(f"{benchmark.title} in {listing.where}: none of its images is there; copy it again.")
    keep = [there[i] for i in evenly(len(there), limit)]
    notes: tuple[str, ...] = ()
    if listing.faults:  # other images than those of the published figures: a table must not confuse the two
        benchmark = replace(benchmark, name=f"{benchmark.name}-incomplete")
        what = f"an incomplete copy with {counted(len(there), 'image')} of {benchmark.images:,}"
        notes = (f"{benchmark.title} in {listing.where}: {what}; its figures are not those of the whole set.",)
    labels = [listing.labels[i] for i in keep]

    return Task(
        benchmark.name,
        benchmark.kind,
        listing.classes,
        benchmark.own_template if template == OWN_TEMPLATE else template,
        ensemble_templates(),
        [listing.ids[i] for i in keep],
        StoredImages(lambda number: listing.read(keep[number]), labels.__getitem__),
        repeated_names=len(set(listing.classes)) < len(listing.classes),
        by_class=True,
        source=source or {},
        notes=notes,
    )


def benchmark_tasks(
    names: Sequence[str],
    root: Path,
    *,
    part: Part = "reporting",
    template: str = DEFAULT_TEMPLATE,
    limit: int | None = None,
    corruptions: Sequence[str] = (),
    severities: Sequence[int] = (5,),
    official: bool = False,
    download: bool = False,
    allow_missing: bool = False,
) -> list[Task]:
    """The tasks of the named benchmarks, in order.

    Args:
        names: of benchmarks and families; "fifteen" stands for the fifteen.
        root: folder that holds them all.
        corruptions: of a family, which of its cells (all by default); of any other benchmark, to be made on the fly (none
            by default).
        severities: of the corruptions.
        allow_missing: see `to_task`.

    Raises:
        UserError: unknown names, or a benchmark that is missing, incomplete or misordered.
    """
    tasks: list[Task] = []
    for name in names_meant(names):
        for benchmark in cells(name, corruptions, severities):
            listing = list_benchmark(benchmark, root, part, official=official, download=download)
            source = {"dataset": benchmark.name, "root": str(root), "split": part, "official": official}
            source |= {"template": template, "limit": limit}
            if allow_missing:
                source |= {"allow_missing": True}
            command = check_command(benchmark, root, official=official)
            if official:  # other images and names: a table must not confuse the two
                benchmark = replace(benchmark, name=f"{benchmark.name}-official")
            task = to_task(
                benchmark,
                listing,
                template=template,
                limit=limit,
                source=source,
                command=command,
                allow_missing=allow_missing,
            )
            tasks += corrupted_tasks([task], corruptions, severities) if corruptions and name not in FAMILIES else [task]
    return tasks
