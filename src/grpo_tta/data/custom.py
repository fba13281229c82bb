"""A user's own labelled images as a task: a folder per class, a CSV of path,label, or Parquet with image,label.

The same images give the same answers in all three: random numbers go by pixels, not by where an image lies.
"""

from __future__ import annotations

import io
import json
import tempfile
import threading
import weakref
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from grpo_tta.bench.records import short_hash
from grpo_tta.data.tasks import Kind, Task, evenly
from grpo_tta.errors import UserError, as_text
from grpo_tta.images.read import SUFFIXES, load_image, read_image

_KIND: Kind = "real"
_PARTS = frozenset({"train", "val", "valid", "validation", "test"})


def read_labels(path: Path) -> dict[str, str]:
    """Labels in their order, with the name of each for the prompts: a text file with one name a line (label and name are
    the same), or a .json file {label: name}, or {label: [name, other names …]}, of which the first is taken.

    Raises:
        UserError: the file is missing, not readable, holds no name, a name that is none, or a label twice.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such labels file; give a text file with one class name a line.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if path.suffix.lower() == ".json" else None
    except ValueError as error:  # bad JSON, or bytes that are no text
        raise UserError(f"{path}: not a readable labels file ({error}).") from None
    if content is None:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if len(set(lines)) < len(lines):
            twice = next(line for i, line in enumerate(lines) if line in lines[:i])
            raise UserError(f"{path}: {twice!r} occurs more than once; remove the duplicate.")
        names = {line: line for line in lines}
    else:
        if not isinstance(content, dict):
            raise UserError(f"{path}: not an object of label and name; write {{label: name, …}}.")
        names = {label: name[0] if isinstance(name, list) and name else name for label, name in content.items()}
        if wrong := [label for label, name in names.items() if not isinstance(name, str) or not name.strip()]:
            raise UserError(f"{path}: the name of {wrong[0]!r} is {names[wrong[0]]!r}; write a text, or a list of texts.")
    if not names:
        raise UserError(f"{path}: no class names in it; write one a line.")
    return names


def custom_task(
    path: Path, *, template: str, labels_file: Path | None = None, limit: int | None = None, name: str | None = None
) -> Task:
    """Reads a data set; images are only opened when they are asked for.

    Args:
        path: a folder with one folder per class, a CSV file with the columns path and label (paths relative to the
            file), or a Parquet file with the columns image (encoded bytes, or a struct with `bytes`) and label.
        template: prompt with `{}` for the class name.
        labels_file: as `read_labels` takes it; without it the labels found in the data, sorted, are the names.
        limit: at most so many images, taken evenly from the whole.
        name: of the task; by default the folder's, or the file's without its suffix.

    Raises:
        UserError: nothing there, unreadable, columns missing, or a label that the labels file does not hold.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check --data.")
    if path.is_dir():
        ids, labels, open_images = _folder(path)
    elif path.suffix.lower() == ".csv":
        ids, labels, open_images = _csv(path)
    elif path.suffix.lower() in (".parquet", ".pq"):
        ids, labels, open_images = _parquet(path)
    else:
        raise UserError(f"{path}: give a folder with one folder per class, a .csv or a .parquet file.")
    if not ids:
        raise UserError(f"{path}: no images in it.")
    if blank := [ids[i] for i, label in enumerate(labels) if not label.strip()]:
        raise UserError(f"{path}: {blank[0]!r} has no label; give it one or remove the row.")
    if twice := [name for name, n in Counter(ids).items() if n > 1]:
        raise UserError(f"{path}: {twice[0]!r} occurs more than once; remove the duplicate.")
    names = read_labels(labels_file) if labels_file else own_names(sorted(set(labels)), path)
    unknown = sorted(set(labels) - set(names))
    if unknown:
        raise UserError(f"{path}: label {unknown[0]!r} is not in {labels_file}; add it there or rename it.")
    keep = evenly(len(ids), limit)
    number_of = {label: number for number, label in enumerate(names)}
    numbers = [number_of[labels[i]] for i in keep]
    shown = class_names(names)
    read = open_images(keep)

    def load(number: int) -> tuple[Image.Image, int]:
        return read(number), numbers[number]

    chosen = [ids[i] for i in keep]
    own_name = (path.resolve().name if path.is_dir() else path.stem).lstrip(".") or "data"
    version = _version(path, chosen, numbers)
    source = {"data": str(path), "labels_file": str(labels_file) if labels_file else None, "template": template, "limit": limit}
    return Task(
        name or own_name,
        _KIND,
        shown,
        template,
        (template,),
        chosen,
        load,
        keyed_by="pixels",
        by_class=True,
        version=version,
        source=source,
    )


def _version(path: Path, ids: Sequence[str], numbers: Sequence[int]) -> str:
    """Distinguishes images and labels from others of the same names without opening them, by sizes on disk and labels."""
    if path.suffix.lower() in (".parquet", ".pq") and path.is_file():
        files = [path]
    else:
        base = path if path.is_dir() else path.parent
        files = [base / name for name in ids]
    sizes = [file.stat().st_size if file.is_file() else -1 for file in files]
    return short_hash([sizes, list(numbers)])


def class_names(names: Mapping[str, str]) -> tuple[str, ...]:
    """Names of labels as prompts hold them."""
    return tuple(name.replace("_", " ") for name in names.values())


def own_names(labels: Sequence[str], where: Path | str) -> dict[str, str]:
    """Labels as they stand in the data, each as its own name.

    Raises:
        UserError: they are numbers: a prompt like "a photo of a 3." would be scored without a word.
    """
    if all(map(_is_number, labels)):
        raise UserError(
            f'{where}: the labels are numbers; name them in a file for --labels-file, such as {{"0": "cat"}} (.json).'
        )
    return {label: label for label in labels}


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True


_Open = Callable[[Sequence[int]], Callable[[int], Image.Image]]
"""Numbers of the images that will be read -> (place among them -> image)."""
_Parts = tuple[list[str], list[str], _Open]


def _folder(path: Path) -> _Parts:
    files = sorted(p.relative_to(path) for p in path.glob("*/**/*") if p.suffix.lower() in SUFFIXES and p.is_file())
    classes = {file.parts[0] for file in files}
    if classes and classes <= _PARTS:
        raise UserError(
            f"{path}: {', '.join(sorted(classes))} are parts of a data set and no classes; give one of them, such as "
            f"{path / min(classes)}."
        )
    if not files and (loose := [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES]):
        raise UserError(
            f"{path}: {len(loose)} images, but not in one folder per class; sort them, or write a .csv of path,label."
        )
    ids, labels = ([as_text(name) for name in names] for names in ([f.as_posix() for f in files], [f.parts[0] for f in files]))
    return ids, labels, lambda keep: lambda n: load_image(path / files[keep[n]])


def _columns(found: Sequence[str], wanted: Sequence[str], path: Path) -> None:
    missing = [column for column in wanted if column not in found]
    if missing:
        how = ", separated by commas" if path.suffix.lower() == ".csv" else ""
        raise UserError(f"{path}: the column {missing[0]!r} is missing; it needs {' and '.join(wanted)}{how}.")


def _csv(path: Path) -> _Parts:
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable CSV file ({error}).") from None
    _columns(list(frame.columns), ("path", "label"), path)
    ids = frame["path"].tolist()
    return ids, frame["label"].tolist(), lambda keep: lambda n: load_image(path.parent / ids[keep[n]])


def _parquet(path: Path) -> _Parts:
    try:
        schema = pq.read_schema(path)
        found = schema.names
        _columns(found, ("image", "label"), path)
        _check_encoded(schema.field("image").type, path)
        has_id = "image_id" in found
        table = pq.read_table(path, columns=["label", *(["image_id"] if has_id else [])])
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not a readable Parquet file ({error}).") from None
    ids = [str(v) for v in table["image_id"].to_pylist()] if has_id else [f"{path.stem}/{i}" for i in range(len(table))]
    labels = ["" if v is None else str(v) for v in table["label"].to_pylist()]

    def open_images(keep: Sequence[int]) -> Callable[[int], Image.Image]:
        images = _Spool(path, keep)

        def read(n: int) -> Image.Image:
            encoded = images[n]
            if not encoded:
                raise UserError(f"{ids[keep[n]]}: the row holds no encoded image; export it again with the bytes in it.")
            return read_image(io.BytesIO(encoded), ids[keep[n]])

        return read

    return ids, labels, open_images


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
            raise UserError(f"{path}: its images could not be copied to a temporary file ({error}).") from None

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
