"""ImageNet and its relatives: class folders named by WordNet id.

Labels are never taken from the order in which folders happen to be listed. Each folder is looked up by its WordNet id in
timm's list of the 1000 classes (label = place among the sorted ids), the class name by that label in open_clip's copy of
OpenAI's names, and the set of folders must be exactly the published one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.resources import files
from pathlib import Path

from grpo_tta.backbones.imagenet_classes import class_names, wordnet_ids
from grpo_tta.data.public.spec import Benchmark, Fault, Listing, Part, find_folder, name_all, no_tuning_part, wrong_number
from grpo_tta.errors import UserError, counted
from grpo_tta.images.read import SUFFIXES

_WORDNET_ID = re.compile(r"n\d{8}")


@cache  # a constant of an installed library
def subset_ids(name: str) -> tuple[str, ...]:
    """The 200 sorted WordNet ids of "imagenet-a" or "imagenet-r", as published and shipped by timm.

    Raises:
        UserError: the installed timm does not ship the list.
    """
    path = files("timm.data") / "_info" / f"{name.replace('-', '_')}_synsets.txt"
    try:
        ids = tuple(sorted(path.read_text().split()))
    except OSError:
        raise UserError(f"The installed timm does not ship the classes of {name}; install timm 1.0.20 or newer.") from None
    if len(set(ids)) != 200 or not set(ids) <= set(wordnet_ids()):
        raise UserError(f"timm's list of the classes of {name} is not the expected one; install timm again.")
    return ids


@cache  # likewise
def ensemble_templates() -> tuple[str, ...]:
    """OpenAI's 80 templates, which the field uses as "the ensemble" on all fifteen benchmarks."""
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)


def read_classes(benchmark: Benchmark, root: Path, part: Part, *, subset: str | None = None) -> Listing:
    """Folders named by WordNet id: all 1000 classes, or those of a subset.

    Raises:
        UserError: nothing there, or the tuning part was asked for.
    """
    no_tuning_part(benchmark, part)
    folder = find_folder(benchmark, root, partial(_holds, _WORDNET_ID))
    return list_classes(benchmark, folder, subset_ids(subset) if subset else wordnet_ids(), lambda name: name)


def read_numbered(benchmark: Benchmark, root: Path, part: Part) -> Listing:
    """ImageNet-V2: folders named by label, 0 to 999 (not padded, so that sorting them as text misorders the classes), or
    by WordNet id, never both.

    Raises:
        UserError: nothing there, or the tuning part was asked for.
    """
    no_tuning_part(benchmark, part)
    folder = find_folder(benchmark, root, partial(_holds, re.compile(r"n\d{8}|\d{1,4}")))
    ids = wordnet_ids()
    if not _holds(re.compile(r"\d{1,4}"), folder):
        return list_classes(benchmark, folder, ids, lambda name: name)
    return list_classes(benchmark, folder, ids, lambda name: ids[int(name)] if name.isdigit() and int(name) < 1000 else name)


def _holds(pattern: re.Pattern[str], folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(pattern.fullmatch(entry.name) and entry.is_dir() for entry in entries)


def _images(folder: Path) -> list[str]:
    """Names of the image files of one class; judged by their suffix alone, and hidden files are none."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".")]
    return sorted(name for name in names if os.path.splitext(name)[1].lower() in SUFFIXES)  # noqa: PTH122 - 50,000 names


def list_classes(benchmark: Benchmark, folder: Path, expected: Sequence[str], wordnet_id: Callable[[str], str]) -> Listing:
    """Lists the images of class folders and checks folders and counts.

    Args:
        expected: sorted WordNet ids; a class's label is its place among them.
        wordnet_id: folder name -> WordNet id.
    """
    names = class_names()
    label_of = {name: label for label, name in enumerate(expected)}
    with os.scandir(folder) as entries:
        found = {e.name: wordnet_id(e.name) for e in entries if e.is_dir() and not e.name.startswith(".")}
    strange = sorted(name for name, key in found.items() if key not in label_of)
    missing = sorted(set(expected) - set(found.values()))
    problems = name_all("the class folder {} is missing", (f"{key} ({names[key]})" for key in missing), missing=True)
    problems += name_all(f"the folder {{}} is no class of {benchmark.title}", strange)
    if len(set(found.values())) < len(found):
        twice = sorted(name for name, key in found.items() if list(found.values()).count(key) > 1)
        problems += name_all("the folder {} names a class that another folder names too", twice)
    ids: list[str] = []
    labels: list[int] = []
    paths: list[str] = []
    fewer: list[str] = []
    other: list[str] = []
    for name, key in sorted(((n, k) for n, k in found.items() if k in label_of), key=lambda pair: pair[1]):
        images = _images(folder / name)
        ids += [f"{key}/{image}" for image in images]
        paths += [f"{name}/{image}" for image in images]
        labels += [label_of[key]] * len(images)
        if (benchmark.per_class or len(images) or 1) != len(images):
            expected_here = f" instead of {benchmark.per_class}" * bool(benchmark.per_class)
            few = len(images) < (benchmark.per_class or 1)
            (fewer if few else other).append(f"{name} ({names[key]}) holds {counted(len(images), 'image')}{expected_here}")
    problems += _missing_numbers(benchmark, ids)
    problems += name_all("the class folder {}", fewer, missing=True) + name_all("the class folder {}", other)
    problems += wrong_number("images", len(ids), benchmark.images, missing=True)
    return Listing(
        tuple(names[key] for key in expected),
        ids,
        labels,
        lambda number: folder / paths[number],
        folder,
        "all images",
        tuple(problems),
    )


def _missing_numbers(benchmark: Benchmark, ids: Sequence[str]) -> list[Fault]:
    """Names of numbered files that are not there; only where most are, so that renamed copies are left to the counts."""
    if benchmark.file_name is None:
        return []
    there = {name.rpartition("/")[2].partition(".")[0] for name in ids}
    missing = [n for n in map(benchmark.file_name.format, range(1, benchmark.images + 1)) if n not in there]
    return name_all("the image {} is missing", missing, missing=True) if len(missing) < benchmark.images / 2 else []
