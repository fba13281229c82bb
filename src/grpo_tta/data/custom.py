"""A user's own labelled pictures as a task: a folder per class, a CSV of path,label, or Parquet with image,label."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from PIL import Image

from grpo_tta.data.tasks import Kind, Task
from grpo_tta.errors import UserError
from grpo_tta.images import SUFFIXES, load_image, to_rgb

_KIND: Kind = "real"


def read_labels(path: Path) -> tuple[str, ...]:
    """Class names, one a line, in the order of the labels.

    Raises:
        UserError: the file is missing or holds no name.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such labels file; give a text file with one class name a line.")
    names = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    if not names:
        raise UserError(f"{path}: no class names in it; write one a line.")
    return names


def custom_task(
    path: Path, *, template: str, labels_file: Path | None = None, limit: int | None = None, name: str | None = None
) -> Task:
    """Reads a data set; pictures are only opened when they are asked for.

    Args:
        path: a folder with one folder per class, a CSV file with the columns path and label (paths relative to the
            file), or a Parquet file with the columns image (encoded bytes, or a struct with `bytes`) and label.
        template: prompt with `{}` for the class name.
        labels_file: class names, one a line; without it the names found in the data, sorted.
        limit: at most so many pictures, taken evenly from the whole.
        name: of the task; the path's stem by default.

    Raises:
        UserError: nothing there, unreadable, columns missing, or a label that the labels file does not hold.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check --data.")
    if path.is_dir():
        ids, labels, read = _folder(path)
    elif path.suffix.lower() == ".csv":
        ids, labels, read = _csv(path)
    elif path.suffix.lower() in (".parquet", ".pq"):
        ids, labels, read = _parquet(path)
    else:
        raise UserError(f"{path}: give a folder with one folder per class, a .csv or a .parquet file.")
    if not ids:
        raise UserError(f"{path}: no pictures in it.")
    if len(set(ids)) < len(ids):
        twice = next(name for i, name in enumerate(ids) if name in ids[:i])
        raise UserError(f"{path}: {twice!r} occurs more than once; remove the duplicate.")
    classes = read_labels(labels_file) if labels_file else tuple(sorted(set(labels)))
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise UserError(f"{path}: label {unknown[0]!r} is not in {labels_file}; add it there or rename it.")
    if limit is not None and limit < 1:
        raise UserError(f"A limit of {limit} images leaves nothing to do; set it to at least 1.")
    keep = range(len(ids)) if limit is None or limit >= len(ids) else [i * len(ids) // limit for i in range(limit)]
    numbers = [classes.index(labels[i]) for i in keep]
    shown = tuple(c.replace("_", " ") for c in classes)
    chosen = list(keep)

    def load(number: int) -> tuple[Image.Image, int]:
        return read(chosen[number]), numbers[number]

    return Task(name or path.stem, _KIND, shown, template, (template,), [ids[i] for i in keep], load)


_Parts = tuple[list[str], list[str], Callable[[int], Image.Image]]


def _folder(path: Path) -> _Parts:
    files = sorted(p for p in path.glob("*/**/*") if p.suffix.lower() in SUFFIXES and p.is_file())
    relative = [p.relative_to(path) for p in files]
    return [r.as_posix() for r in relative], [r.parts[0] for r in relative], lambda i: load_image(files[i])


def _columns(found: Sequence[str], wanted: Sequence[str], path: Path) -> None:
    missing = [column for column in wanted if column not in found]
    if missing:
        raise UserError(f"{path}: the column {missing[0]!r} is missing; it needs {' and '.join(wanted)}.")


def _csv(path: Path) -> _Parts:
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable CSV file ({error}).") from None
    _columns(list(frame.columns), ("path", "label"), path)
    ids = frame["path"].tolist()
    return ids, frame["label"].tolist(), lambda i: load_image(path.parent / ids[i])


def _parquet(path: Path) -> _Parts:
    try:
        found = pq.read_schema(path).names
        _columns(found, ("image", "label"), path)
        has_id = "image_id" in found
        table = pq.read_table(path, columns=["image", "label", *(["image_id"] if has_id else [])])
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not a readable Parquet file ({error}).") from None
    ids = [str(v) for v in table["image_id"].to_pylist()] if has_id else [f"{path.stem}/{i}" for i in range(len(table))]
    images = table["image"]

    def read(i: int) -> Image.Image:
        cell: Any = images[i].as_py()
        data = cell["bytes"] if isinstance(cell, dict) else cell
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                return to_rgb(image)
        except Exception as error:
            raise UserError(f"{ids[i]}: the picture is damaged ({error}); export it again.") from None

    return ids, [str(v) for v in table["label"].to_pylist()], read
