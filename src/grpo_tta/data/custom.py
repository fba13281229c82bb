"""A user's own labelled images as a task: a folder per class, a CSV of path,label, or Parquet with image,label.

The same images give the same answers in all three: random numbers go by pixels, not by where an image lies.
"""

from __future__ import annotations

import csv
import os
import tempfile
import threading
import weakref
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR
from typing import Any, final

import pyarrow as pa
import pyarrow.parquet as pq

from grpo_tta.config.serialise import short_hash
from grpo_tta.data.labels import class_names, names_may_repeat, own_names, read_labels, texts_of
from grpo_tta.data.tasks import Kind, StoredImages, Task, evenly
from grpo_tta.errors import UserError, as_text, counted, first_line
from grpo_tta.images.folders import Item, Tally, is_left_behind, walk_opened
from grpo_tta.images.inputs import EncodedImage, ImageLike
from grpo_tta.images.read import stat_of

_KIND: Kind = "real"
_PARTS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})
_ALIKE = 0.8  # share of the sub-folders that two folders have in common where they are parts or domains
_PARQUET = (".parquet", ".pq")
ALL = "all"


def custom_tasks(
    path: Path,
    *,
    template: str,
    labels_file: Path | None = None,
    limit: int | None = None,
    split: str | None = None,
    domain: str | None = None,
    allow_empty: bool = False,
) -> list[Task]:
    """The tasks of a data set: one, or one per domain.

    Args:
        path, template, labels_file, limit, allow_empty: as of `custom_task`.
        split: folder of the part that is read, such as `Testing`, where the first folders are parts and no classes.
        domain: the same for domains (`DOMAIN/CLASS/image.jpg`); `all` makes a task of each.

    Raises:
        UserError: as `custom_task`, or there is no such part or domain.
    """
    options: dict[str, Any] = {"template": template, "labels_file": labels_file, "limit": limit, "allow_empty": allow_empty}
    if labels_file is not None:
        options["names"] = read_labels(labels_file)  # once: it may be a pipe
    if split is None and domain is None:
        return [custom_task(path, **options)]
    if not path.is_dir():
        raise UserError(f"{path}: --split and --domain pick folders of a folder, and this is none; leave them away.")
    found = _picked([path], split, domain)
    base = _name_of(path)
    return [custom_task(place, name="-".join([base, *place.relative_to(path).parts]), **options) for place in found]


def _picked(places: list[Path], split: str | None, domain: str | None) -> list[Path]:
    """The folders that a split and a domain mean, whichever of them lies above the other."""
    inside = sorted({name for place in places for name in _folders(place)})
    if split is not None and split in inside:
        places, split = [place / split for place in places if (place / split).is_dir()], None
    elif domain is not None and (domain == ALL or domain in inside):
        names = inside if domain == ALL else [domain]
        places, domain = [place / name for place in places for name in names if (place / name).is_dir()], None
    else:
        raise UserError(
            f"{places[0]}: no folder {split if split is not None else domain!r} in it; there are {', '.join(inside)}."
        )
    return places if split is None and domain is None else _picked(places, split, domain)


def _folders(place: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(place) if not is_left_behind(entry.name) and entry.is_dir())
    except OSError as error:
        raise UserError(f"{place}: the folder cannot be opened ({error.strerror}); check its rights.") from None


def custom_task(
    path: Path,
    *,
    template: str,
    labels_file: Path | None = None,
    limit: int | None = None,
    name: str | None = None,
    allow_empty: bool = False,
    names: Mapping[str, str] | None = None,
) -> Task:
    """Reads a data set; images are only opened when they are asked for.

    Args:
        path: a folder with one folder per class, a CSV file with the columns path and label (paths relative to the
            file), or a Parquet file with the columns image (encoded bytes, or a struct with `bytes`) and label.
        template: prompt with `{}` for the class name.
        labels_file: as `read_labels` takes it; without it the labels found in the data, sorted, are the names.
        limit: at most so many images, taken evenly from the whole.
        name: of the task; by default the folder's, or the file's without its suffix.
        allow_empty: a folder without an image is a class all the same.
        names: what the labels file holds, where it was read before.

    Raises:
        UserError: nothing there, unreadable, columns missing, folders that are no classes, a class without an image, or a label
            that the labels file does not hold.
    """
    state = stat_of(path)
    if state is None:
        raise UserError(f"{path}: no such file or folder; check --data.")
    if S_ISDIR(state.st_mode):
        found = _folder(path, allow_empty or labels_file is not None)
    elif path.suffix.lower() == ".csv":
        found = _csv(path)
    elif path.suffix.lower() in _PARQUET:
        found = _parquet(path)
    else:
        raise UserError(f"{path}: give a folder with one folder per class, a .csv or a .parquet file.")
    ids, labels = found.ids, found.labels
    if not ids:
        raise UserError(" ".join([f"{path}: no images in it.", *found.notes]))
    if blank := [ids[i] for i, label in enumerate(labels) if not label.strip()]:
        raise UserError(f"{path}: {blank[0]!r} has no label; give it one or remove the row.")
    if twice := [name for name, n in Counter(ids).items() if n > 1]:
        raise UserError(f"{path}: {twice[0]!r} occurs more than once; remove the duplicate.")
    if names is None:
        names = read_labels(labels_file) if labels_file else own_names(sorted({*labels, *found.empty}), path)
    unknown = sorted(set(labels) - set(names))
    if unknown:
        raise UserError(f"{path}: label {unknown[0]!r} is not in {labels_file}; add it there or rename it.")
    keep = evenly(len(ids), limit)
    number_of = {label: number for number, label in enumerate(names)}
    numbers = [number_of[labels[i]] for i in keep]
    shown = class_names(names)
    sizes = [_size(file) for file in ([found.files[i] for i in keep] if len(found.files) == len(ids) else found.files)]
    notes = found.notes + (() if labels_file else note_of_empty(path, found.empty))
    source: dict[str, Any] = {"data": as_text(str(path)), "labels_file": as_text(str(labels_file)) if labels_file else None}
    source |= {"template": template, "limit": limit}
    if list(names) != list(names.values()):
        source |= {"labels": list(names)}  # WordNet ids, for example, behind the names in the prompts
    return Task(
        name or _name_of(path),
        _KIND,
        shown,
        template,
        (template,),
        [ids[i] for i in keep],
        StoredImages(found.open(keep), numbers.__getitem__),
        keyed_by="pixels",
        repeated_names=names_may_repeat(shown),
        by_class=True,
        version=short_hash([sizes, numbers]),
        source=source,
        notes=notes,
    )


def _name_of(path: Path) -> str:
    return task_name(path.resolve().name if path.is_dir() else path.stem)


def task_name(name: str) -> str:
    """What a task is called whose folder or file has this name."""
    return as_text(name).lstrip(".") or "data"


def _size(file: Path) -> int:
    """Sizes distinguish images from others of the same names without opening them; -1 where there is none."""
    try:
        return file.stat().st_size
    except (OSError, ValueError):
        return -1


_Open = Callable[[Sequence[int]], Callable[[int], ImageLike]]
"""Numbers of the images that will be read -> (place among them -> file or encoded image)."""


@final
@dataclass(frozen=True)
class _Found:
    """What lies on disk.

    Attributes:
        ids, labels: of every image.
        open: see `_Open`.
        files: of every image, or the one that holds them all.
        empty: folders of classes without an image.
        notes: what was left out, a sentence each.
    """

    ids: list[str]
    labels: list[str]
    open: _Open
    files: Sequence[Path]
    empty: list[str] = field(default_factory=list)
    notes: tuple[str, ...] = ()


@final
@dataclass
class _Class:
    """A first-level folder: how many images lie in it and how many of them directly, and the folders in it."""

    images: int = 0
    own: int = 0
    folders: set[str] = field(default_factory=set)


@final
class ClassFolders:
    """Judges a folder of class folders while it is walked, for this module and for the cluster's listing alike.

    Args:
        where: what messages call the folder.
    """

    def __init__(self, where: Path | str) -> None:
        self._where = where
        self._classes: dict[str, _Class] = {}
        self._tally = Tally()
        self._loose = 0

    def images(self, items: Iterable[Item]) -> Iterator[str]:
        """The paths of the images that lie in a class folder, in the order of the walk."""
        for name in self._tally.images(self._watched(items)):
            first, *rest = name.split("/", 2)
            if not rest:
                self._loose += 1
                continue
            self._classes[first].images += 1
            self._classes[first].own += len(rest) == 1
            yield name

    def _watched(self, items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            first, *rest = item.path.split("/", 2)
            # A class that cannot be opened, or a link to one that is gone, must not vanish.
            if not rest and (item.kind == "folder" or (item.kind == "unresolved" and "." not in first)):
                self._classes[first] = _Class()
            elif item.kind == "folder" and len(rest) == 1:
                self._classes[first].folders.add(rest[0])
            yield item

    @property
    def classes(self) -> list[str]:
        """Class folders, sorted, as text."""
        return sorted(map(as_text, self._classes))

    @property
    def empty(self) -> list[str]:
        """Class folders without an image, sorted, as text."""
        return sorted(as_text(name) for name, found in self._classes.items() if not found.images)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, a sentence each."""
        notes = self._tally.notes(self._where)
        if self._loose:
            notes += (f"{self._where}: skipped {counted(self._loose, 'image')} outside the class folders.",)
        return notes

    def check(self, *, with_empty: bool) -> None:
        """Judges what was seen, once the walk is over.

        Args:
            with_empty: class folders without an image are no fault.

        Raises:
            UserError: images that lie in no class folder, none at all, folders that are parts of a data set or domains, two
                that are shown alike, or a class without an image.
        """
        any_image = any(found.images for found in self._classes.values())
        if self._loose and not any_image:
            raise UserError(
                f"{self._where}: {counted(self._loose, 'image')}, but not in one folder per class; sort them, or write a "
                ".csv of path,label."
            )
        _check_classes(self._where, self._classes)
        if twice := [text for text, n in Counter(map(as_text, self._classes)).items() if n > 1]:
            raise UserError(f"{self._where}: two folders are both shown as {twice[0]!r}; rename one of them.")
        if self.empty and not with_empty:
            raise UserError(" ".join([_empty_classes(self._where, self.empty), *self.notes]))
        if not any_image:
            raise UserError(" ".join([f"{self._where}: no images in it.", *self.notes]))


def _folder(path: Path, with_empty: bool) -> _Found:
    folders = ClassFolders(path)
    files = list(folders.images(walk_opened(path)))
    folders.check(with_empty=with_empty)
    return _Found(
        [as_text(name) for name in files],
        [as_text(name.partition("/")[0]) for name in files],
        lambda keep: lambda n: path / files[keep[n]],
        [path / name for name in files],
        folders.empty,
        folders.notes,
    )


def _check_classes(path: Path | str, classes: dict[str, _Class]) -> None:
    """
    Raises:
        UserError: the folders are parts of a data set or domains, each of which holds the classes.
    """
    parts = sorted(as_text(name) for name in classes if name.casefold() in _PARTS)
    if parts and (len(parts) == len(classes) or len(parts) > 1):
        raise UserError(
            f"{path}: {', '.join(parts)} are parts of a data set and no classes; give one of them, such as {path}/{parts[0]}, "
            f"or --split {parts[0]}."
        )
    above = {name: of_class.folders for name, of_class in classes.items() if not of_class.own and len(of_class.folders) > 1}
    if len(above) < 2 or len(classes) - len(above) > len(classes) // 4:
        return
    model = max(above.values(), key=len)
    alike = [name for name, folders in above.items() if len(folders & model) >= _ALIKE * len(folders | model)]
    if len(alike) < 2 or len(classes) - len(alike) > len(classes) // 4 or {name.casefold() for name in model} <= _PARTS:
        return
    domains, inside = (sorted(map(as_text, names)) for names in (alike, model))
    raise UserError(
        f"{path}: {_some(domains)} hold the same folders ({_some(inside)}), so they are domains or parts of a data set "
        f"and no classes; pick one with --domain {domains[0]} or --split {domains[0]}, make a task of each with "
        "--domain all, or write a .csv of path,label."
    )


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _empty_classes(where: Path | str, empty: Sequence[str]) -> str:
    return (
        f"{where}: no image in the class {'folder' if len(empty) == 1 else 'folders'} {_some(empty)}; add images, remove the "
        f"{'folder' if len(empty) == 1 else 'folders'}, or keep the class with --allow-empty."
    )


def note_of_empty(where: Path | str, empty: Sequence[str]) -> tuple[str, ...]:
    """That classes without an image were kept, where there are any."""
    return (f"{where}: classes without an image: {', '.join(empty)}.",) if empty else ()


def _columns(found: Sequence[str], wanted: Sequence[str], path: Path) -> None:
    missing = [column for column in wanted if column not in found]
    if missing:
        how = ", separated by commas" if path.suffix.lower() == ".csv" else ""
        raise UserError(f"{path}: the column {missing[0]!r} is missing; it needs {' and '.join(wanted)}{how}.")
    if twice := [column for column in wanted if list(found).count(column) > 1]:
        raise UserError(f"{path}: the column {twice[0]!r} occurs more than once; remove one.")


def _csv(path: Path) -> _Found:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            header = next(rows, [])
            _columns(header, ("path", "label"), path)
            found = [(row, rows.line_num) for row in rows if row]
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable CSV file ({first_line(error)}); save it as UTF-8 with commas.") from None
    # a value too many or too few would shift the others into wrong columns
    if wrong := [line for row, line in found if len(row) != len(header)]:
        raise UserError(f"{path}: line {wrong[0]} does not have {counted(len(header), 'value')} as the header has; correct it.")
    if wrong := [line for row, line in found if any("\0" in value for value in row)]:
        raise UserError(f"{path}: line {wrong[0]} holds a zero byte; save the file as UTF-8 text.")
    ids, labels = ([row[header.index(column)] for row, _ in found] for column in ("path", "label"))
    files = [path.parent / name for name in ids]
    return _Found(ids, labels, lambda keep: lambda n: files[keep[n]], files)


def _parquet(path: Path) -> _Found:
    try:
        schema = pq.read_schema(path)
        found = schema.names
        _columns(found, ("image", "label"), path)
        _check_encoded(schema.field("image").type, path)
        has_id = "image_id" in found
        table = pq.read_table(path, columns=["label", *(["image_id"] if has_id else [])])
        columns = {name: texts_of(table[name], schema.field(name), schema.metadata, path) for name in table.column_names}
    except (OSError, ValueError, NotImplementedError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not a readable Parquet file ({first_line(error)}).") from None
    ids = columns["image_id"] if has_id else [f"{as_text(path.stem)}/{i}" for i in range(len(table))]

    def open_images(keep: Sequence[int]) -> Callable[[int], ImageLike]:
        images = _Spool(path, keep)

        def read(n: int) -> ImageLike:
            encoded = images[n]
            if not encoded:
                raise UserError(f"{ids[keep[n]]}: the row holds no encoded image; export it again with the bytes in it.")
            return EncodedImage(encoded, ids[keep[n]])

        return read

    return _Found(ids, columns["label"], open_images, [path])


def _check_encoded(column: pa.DataType, path: Path) -> None:
    if pa.types.is_struct(column):
        column = column.field("bytes").type if column.get_field_index("bytes") >= 0 else pa.null()
    if not (pa.types.is_binary(column) or pa.types.is_large_binary(column)):
        raise UserError(
            f"{path}: the column 'image' holds no encoded images (bytes, or a struct with bytes); "
            "for paths of files write a .csv of path,label."
        )


@final
class _Spool:
    """The encoded images of a Parquet file one after another in a temporary file, so that they can be read in any order
    without being held in memory: a Parquet file is only read in runs of rows. It needs their size on disk, in $TMPDIR.

    Args:
        keep: row numbers in ascending order.

    Raises:
        UserError: the file cannot be read, or the disk is full.
    """

    def __init__(self, path: Path, keep: Sequence[int]) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the object
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        self._ends = array("q", [0])
        try:
            self._fill(path, keep)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: its images could not be copied to a temporary file ({first_line(error)}).") from None

    def _fill(self, path: Path, keep: Sequence[int]) -> None:
        waiting = iter(keep)
        wanted = next(waiting, None)
        row = 0
        # Read as a stream: memory goes with the largest page of the file, at most a row group, not with its length.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 18) as file:
            for batch in file.iter_batches(batch_size=16, columns=["image"], use_threads=False):
                for place in range(len(batch)):
                    if row + place == wanted:
                        cell: Any = batch.column(0)[place].as_py()
                        self._file.write((cell["bytes"] if isinstance(cell, dict) else cell) or b"")
                        self._ends.append(self._file.tell())
                        wanted = next(waiting, None)
                row += len(batch)

    def __getitem__(self, n: int) -> bytes:
        with self._lock:
            self._file.seek(self._ends[n])
            return self._file.read(self._ends[n + 1] - self._ends[n])
