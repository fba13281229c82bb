"""The nine benchmarks whose field-wide test set is CoOp's: a split_zhou_*.json beside the images.

The file holds train, val and test lists of [path, label, class name]. The name travels with the label in every row, and
where path or an annotation file of the data set holds the class as well, the two must agree: so a renamed or permuted
class cannot pass.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from grpo_tta.data.public.spec import Benchmark, Fault, Listing, Part, check_root, name_all, not_found, wrong_number
from grpo_tta.errors import UserError, counted

_PARTS: Mapping[Part, str] = {"reporting": "test", "tuning": "val"}
_ALL_PARTS = ("train", "val", "test")
Row = tuple[str, int, str]


def class_by_folder(path: str) -> str:
    return PurePosixPath(path).parent.name


def read_split(benchmark: Benchmark, root: Path, part: Part) -> Listing:
    """
    Raises:
        UserError: images or split file are not there, or the file is none.
    """
    check_root(root)
    path = _find_split(benchmark, root)
    split = _parse(path)
    name = _PARTS[part]
    rows = split[name]
    folder = _find_images(benchmark, root, rows)
    classes, problems = _classes(benchmark, split)
    problems += _annotations(benchmark, (path.parent, folder, folder.parent), classes)
    problems += _overlaps(split)
    absent = frozenset(number for number, (image, _, _) in enumerate(rows) if not (folder / image).is_file())
    problems += name_all("the image {} is missing", (rows[number][0] for number in sorted(absent)), missing=True)
    expected = benchmark.images if part == "reporting" else benchmark.tuning_images
    problems += wrong_number(f"images in the {name} part of {path.name}", len(rows), expected or len(rows))
    return Listing(
        tuple(c.replace("_", " ") for c in classes),
        [p for p, _, _ in rows],
        [label for _, label, _ in rows],
        lambda number: folder / rows[number][0],
        folder,
        f"{name} part of {path}",
        tuple(problems),
        absent,
    )


def _find_split(benchmark: Benchmark, root: Path) -> Path:
    """Beside the images or one folder up (CoOp), or in a folder data_splits (TPT)."""
    own = [place for name in benchmark.folders for place in (root / name, (root / name).parent)]
    above = [root.parent] if _is_image_folder(benchmark, root) else []
    places = (*own, root, *above, root / "data_splits", root / "data" / "data_splits", root.parent / "data_splits")
    for place in places:
        if (place / benchmark.split_file).is_file():
            return place / benchmark.split_file
    there = next((str(root / name) for name in benchmark.folders if (root / name).is_dir()), str(root) if above else None)
    if there is None:
        raise not_found(benchmark, root)
    or_else = "; --official-split reads torchvision's own test split instead, for other figures" if benchmark.official else ""
    raise UserError(
        f"{benchmark.split_file} is missing beside {there}: it names the field's test images of {benchmark.title} and their "
        f"classes. Download it from CoOp's DATASETS.md{or_else}."
    )


def _is_image_folder(benchmark: Benchmark, root: Path) -> bool:
    """Whether the root that was given is the folder of the images itself."""
    return root.resolve().name in {PurePosixPath(name).name for name in benchmark.folders}


def _find_images(benchmark: Benchmark, root: Path, rows: Sequence[Row]) -> Path:
    """The folder below the root in which the split's paths lie, judged by some of them: one may be what is missing."""
    names = dict.fromkeys(benchmark.folders)
    inside = dict.fromkeys(PurePosixPath(name).name for name in names)
    places = [root / name for name in (*names, *inside, ".") if (root / name).is_dir()]
    some = rows[:: max(1, len(rows) // 16)]
    hits = [sum((place / path).is_file() for path, _, _ in some) for place in places]
    if not any(hits):
        raise not_found(benchmark, root)
    return places[hits.index(max(hits))]


def _parse(path: Path) -> dict[str, list[Row]]:
    try:
        content = json.loads(path.read_text())
        split = {part: [(str(p), int(label), str(name)) for p, label, name in content[part]] for part in _ALL_PARTS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not one of CoOp's split files ({error!r}); download it again.") from None
    for name, _, _ in (row for rows in split.values() for row in rows):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UserError(f"{path}: the path {name!r} leaves the data set; download the file again.")
    return split


def _classes(benchmark: Benchmark, split: Mapping[str, Sequence[Row]]) -> tuple[list[str], list[Fault]]:
    """Class names by label, and what speaks against them."""
    names: dict[int, str] = {}
    problems: dict[str, None] = {}  # an ordered set
    for path, label, name in (row for part in _ALL_PARTS for row in split[part]):
        if names.setdefault(label, name) != name:
            problems[f"label {label} is called both {names[label]!r} and {name!r} in {benchmark.split_file}"] = None
        if benchmark.class_of is not None and (on_disk := benchmark.class_of(path)) != name:
            problems[f"the class {name!r} of {benchmark.split_file} is called {on_disk!r} on disk"] = None
    twice = sorted({n for n in names.values() if list(names.values()).count(n) > 1})
    found = [Fault(text) for text in problems]
    found += [Fault(f"the class {name!r} has more than one label in {benchmark.split_file}") for name in twice]
    if sorted(names) != list(range(len(names))):
        found.append(Fault(f"the labels of {benchmark.split_file} do not run from 0 to {len(names) - 1}"))
    found += wrong_number(f"classes in {benchmark.split_file}", len(names), benchmark.classes)
    return [names[label] for label in sorted(names)], found


def _annotations(benchmark: Benchmark, places: Sequence[Path], classes: Sequence[str]) -> list[Fault]:
    """Compares the class names with the data set's own list, where it has one and it is there.

    Raises:
        UserError: the list is damaged.
    """
    path = next((p / benchmark.annotation for p in places if (p / benchmark.annotation).is_file()), None)
    if path is None or benchmark.names_in is None:
        return []
    try:
        listed = benchmark.names_in(path)
    except Exception as error:  # SciPy raises all kinds on a damaged file
        raise UserError(f"{path}: truncated or damaged ({error!r}); download it again.") from None
    if len(listed) != len(classes):
        return [Fault(f"{path.name} holds {len(listed)} classes, {benchmark.split_file} {len(classes)}")]
    wrong = [(label, *pair) for label, pair in enumerate(zip(classes, listed, strict=True)) if pair[0] != pair[1]]
    sentences = [f"class {n} is called {a!r} in {benchmark.split_file} and {b!r} in {path.name}" for n, a, b in wrong]
    return name_all("{}", sentences)


def _overlaps(split: Mapping[str, Sequence[Row]]) -> list[Fault]:
    seen: dict[str, str] = {}
    both = [path for part in _ALL_PARTS for path, _, _ in split[part] if seen.setdefault(path, part) != part]
    listed = [path for part in _ALL_PARTS for path, _, _ in split[part]]
    again = len(listed) - len(set(listed)) - len(both)
    problems = name_all("the image {} is in more than one part of the split", both)
    return problems + ([Fault(f"{counted(again, 'image')} listed more than once in the same part")] if again > 0 else [])
