"""Images by the million: a Parquet manifest, or a folder listed into one, on any file system.

A manifest has the column `image_id` (strings, each once) and one of two others. `path` is absolute, a URI, or relative to the
manifest, as text or as the bytes of a file's name; `image` holds encoded bytes, or a struct with `bytes`. `label` is there
where accuracy is wanted. A manifest is never held in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from stat import S_ISDIR
from typing import Any, final

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from PIL import Image

from grpo_tta.data.custom import ClassFolders, note_of_empty, task_name
from grpo_tta.data.labels import texts_of
from grpo_tta.data.tasks import Task
from grpo_tta.errors import UserError, as_text, first_line
from grpo_tta.images.folders import Item, Tally, walk, walk_opened
from grpo_tta.images.inputs import EncodedImage, ImageLike, to_image
from grpo_tta.images.read import stat_of
from grpo_tta.images.remote import Place, below, fetch, filesystem, is_url, lister

TASK_COLUMNS: tuple[str, ...] = ("image_id", "task", "number", "order")
"""Of the manifests of tasks that draw their own images."""
_PARQUET = (".parquet", ".pq")
_ROWS = 65_536  # a row group of the manifests written here
_THREADS = 8  # that fetch remote images
_AHEAD = 32  # images that they are ahead of the reader


def join(base: str, name: str) -> str:
    """`name` where it stands for itself (absolute, a URI), else below `base`."""
    return name if "://" in name or name.startswith("/") else f"{base.rstrip('/')}/{name}"


@final
@dataclass(frozen=True)
class Manifest:
    """
    Attributes:
        uri: of the Parquet file, or of a folder of them.
        rows: how many images.
        columns: those that are read.
        base: what relative paths are relative to.
        name: of the task: that of the folder, or of the file without its suffix.
        classes: labels of the folders that were listed, those without an image among them; () for a user's own manifest.
        notes: what was left out of the listing, a sentence each.
    """

    uri: str
    rows: int
    columns: tuple[str, ...]
    base: str
    name: str
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def labels(self) -> Mapping[Any, str]:
        """The distinct values of the column of labels, each with its text; reads the column once, batch by batch.

        Raises:
            UserError: the column holds no labels, or a row has none.
        """
        fs, path = filesystem(self.uri)
        data = ds.dataset(path, filesystem=fs, format="parquet")
        field = data.schema.field("label")
        found: dict[Any, str] = {}
        texts_of(pa.chunked_array([], field.type), field, data.schema.metadata, self.uri)  # refused before it is read
        for batch in data.to_batches(columns=["label"]):
            values = batch["label"].unique()
            if pa.types.is_dictionary(values.type):
                values = values.dictionary_decode()
            texts = texts_of(pa.chunked_array([values]), field, data.schema.metadata, self.uri)
            found |= {key: text for value, text in zip(values.to_pylist(), texts, strict=True) if (key := value) is not None}
        return found


def open_manifest(source: str, out: str, *, labelled: bool, with_empty: bool = False) -> Manifest:
    """Opens a manifest, or lists a folder of images into `out/manifest.parquet` (where that is not there yet).

    Args:
        source: a Parquet file, a folder of Parquet files, or a folder of images; a path or a URI.
        out: folder of the run.
        labelled: labels are wanted; in a folder of images they are the names of its folders.
        with_empty: a class folder without an image is no fault.

    Raises:
        UserError: nothing there, no images in it, folders that are no classes, or columns are missing.
    """
    fs, path = filesystem(source)
    kind = _kind(source, fs, path)
    base, name = source, task_name(Path(path).stem if kind == pafs.FileType.File else Path(path).name)
    if kind == pafs.FileType.NotFound:
        raise UserError(f"{source}: no such file or folder; check the path.")
    listed = None
    if kind == pafs.FileType.File:
        if not path.lower().endswith(_PARQUET):
            raise UserError(f"{source}: Ray reads a Parquet manifest or a folder; give one of them.")
        base = source.rpartition("/")[0] or "."
    elif not _holds_parquet(source, fs, path):
        uri = f"{out.rstrip('/')}/manifest.parquet"
        listed = _write_listing(fs, path, source, uri, labelled, with_empty)
        source = uri
        fs, path = filesystem(uri)
    if "://" not in base:
        base = Path(base).absolute().as_posix()
    opened = _check(source, fs, path, base, name, labelled)
    return opened if listed is None else replace(opened, classes=listed.classes, notes=listed.notes)


def _kind(source: str, fs: pafs.FileSystem, path: str) -> pafs.FileType:
    if isinstance(fs, pafs.LocalFileSystem):  # arrow reads no names of other bytes than text
        found = stat_of(Path(path))
        if found is None:
            return pafs.FileType.NotFound
        return pafs.FileType.Directory if S_ISDIR(found.st_mode) else pafs.FileType.File
    try:
        return fs.get_file_info(path).type
    except OSError as error:
        raise UserError(f"{source}: cannot be reached ({error}); check the address and your credentials.") from None


def _holds_parquet(source: str, fs: pafs.FileSystem, folder: str) -> bool:
    try:
        if isinstance(fs, pafs.LocalFileSystem):
            names = [entry.name for entry in Path(folder).iterdir()]
        else:
            names = [entry.base_name for entry in fs.get_file_info(pafs.FileSelector(folder))]
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{source}: the folder cannot be opened ({why}); check its rights.") from None
    return any(name.lower().endswith(_PARQUET) for name in names)


def _check(source: str, fs: pafs.FileSystem, path: str, base: str, name: str, labelled: bool) -> Manifest:
    try:
        data = ds.dataset(path, filesystem=fs, format="parquet")
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{source}: not a readable Parquet file ({first_line(error)}).") from None
    names = data.schema.names
    if "image_id" not in names or not pa.types.is_string(data.schema.field("image_id").type):
        raise UserError(f"{source}: a column 'image_id' of strings is needed, each of them once; copy 'path' into it.")
    if "path" not in names and "image" not in names:
        raise UserError(f"{source}: a column 'path' or 'image' is needed.")
    if labelled and "label" not in names:
        raise UserError(f"{source}: the column 'label' is missing; add it, or use predict.")
    rows = data.count_rows()
    if not rows:
        raise UserError(f"{source}: no images in it.")
    wanted = ("image_id", "path", "image", "order", *(("label",) if labelled else ()))
    return Manifest(source, rows, tuple(column for column in wanted if column in names), base, name)


@final
@dataclass(frozen=True)
class _Listed:
    """What a listing found beside the images."""

    classes: tuple[str, ...]
    notes: tuple[str, ...]


def _write_listing(fs: pafs.FileSystem, folder: str, source: str, uri: str, labelled: bool, with_empty: bool) -> _Listed:
    """The images of a folder, by the walk and the judgement of a run on this machine.

    Raises:
        UserError: no image, or (where labels are wanted) folders that are no classes.
    """
    folder = folder.rstrip("/")
    items: Iterable[Item] = walk_opened(Path(folder)) if isinstance(fs, pafs.LocalFileSystem) else walk(lister(fs, folder))
    tally, folders = Tally(), ClassFolders(source)
    names = folders.images(items) if labelled else tally.images(items)

    def check(count: int) -> None:
        if labelled:
            folders.check(with_empty=with_empty)
        elif not count:
            raise UserError(" ".join([f"{source}: no images in this folder.", *tally.notes(source)]))

    def rows() -> Iterator[dict[str, Any]]:
        number = -1
        for number, name in enumerate(names):
            row = {"image_id": as_text(name), "path": os.fsencode(name), "order": number}
            # Answers name an image as a run on this machine does; records name it within its data set.
            named = {"label": as_text(name.partition("/")[0])} if labelled else {"image_id": as_text(_name_in(source, name))}
            yield row | named
        check(number + 1)

    schema = [("image_id", pa.string()), ("path", pa.binary()), ("order", pa.int64())]
    if not _write(uri, pa.schema(schema + ([("label", pa.string())] if labelled else [])), rows()):
        check(sum(1 for _ in names))  # a resumed run keeps the list it began with, and says again what was left out
    if not labelled:
        return _Listed((), tally.notes(source))
    return _Listed(tuple(folders.classes), folders.notes + note_of_empty(source, folders.empty if with_empty else ()))


def _name_in(folder: str, name: str) -> str:
    """An image of a folder as `images.folders.find_images` or `images.remote.find_by_url` names it."""
    return below(folder, name) if is_url(folder) else str(Path(folder) / name)


def is_manifest(source: str) -> bool:
    """Whether this is a Parquet file, or a folder that holds some.

    Raises:
        UserError: it cannot be reached or opened.
    """
    fs, path = filesystem(source)
    kind = _kind(source, fs, path)
    if kind == pafs.FileType.Directory:
        return _holds_parquet(source, fs, path)
    return kind == pafs.FileType.File and path.lower().endswith(_PARQUET)


def is_folder(source: str) -> bool:
    """Whether this is a folder.

    Raises:
        UserError: it cannot be reached.
    """
    fs, path = filesystem(source)
    return _kind(source, fs, path) == pafs.FileType.Directory


def table_of(places: Sequence[Place]) -> pa.Table:
    """A manifest of images that were named one by one, with paths that mean the same in every process."""
    paths = [place if isinstance(place, str) else str(place.absolute()) for place in places]
    columns = {
        "image_id": pa.array([as_text(str(place)) for place in places], pa.string()),
        "path": pa.array([os.fsencode(path) for path in paths], pa.binary()),
        "order": pa.array(range(len(places)), pa.int64()),
    }
    return pa.table(columns)


def write_places(places: Sequence[Place], out: str) -> Manifest:
    """`table_of` in `out/manifest.parquet`.

    Raises:
        UserError: the folder holds another list.
    """
    uri, table = f"{out.rstrip('/')}/manifest.parquet", table_of(places)
    if not _write(uri, table.schema, iter(table.to_pylist())):
        fs, path = filesystem(uri)
        if not pq.read_table(path, filesystem=fs, columns=["image_id", "path"]).equals(table.select(["image_id", "path"])):
            raise UserError(f"{out} holds another run (images differ); name another --out or remove the folder.")
    return Manifest(uri, len(places), tuple(table.column_names), ".", "images")


def write_tasks(tasks: Sequence[Task], orders: Sequence[Sequence[int]], uri: str) -> None:
    """A manifest of tasks that draw their own images: `image_id`, `task`, `number` and `order` in the stream."""
    schema = pa.schema([("image_id", pa.string()), ("task", pa.string()), ("number", pa.int64()), ("order", pa.int64())])
    rows = (
        {"image_id": task.image_ids[number], "task": task.name, "number": number, "order": place}
        for task, order in zip(tasks, orders, strict=True)
        for place, number in enumerate(order)
    )
    _write(uri, schema, rows)


def _write(uri: str, schema: pa.Schema, rows: Iterator[dict[str, Any]]) -> bool:
    """Writes a manifest once; a resumed run keeps the one it has. Returns whether it was written."""
    fs, path = filesystem(uri)
    if fs.get_file_info(path).type == pafs.FileType.File:
        return False
    fs.create_dir(path.rpartition("/")[0], recursive=True)
    try:
        with pq.ParquetWriter(f"{path}.partial", schema, filesystem=fs) as writer:
            while some := list(islice(rows, _ROWS)):
                writer.write_table(pa.Table.from_pylist(some, schema=schema))
    except UserError:
        fs.delete_file(f"{path}.partial")
        raise
    fs.move(f"{path}.partial", path)
    return True


@final
class Images:
    """The images of a manifest's rows, opened when asked for; a few threads fetch remote ones ahead of the reader."""

    def __init__(self, table: pa.Table, base: str) -> None:
        """
        Args:
            table: rows of a manifest.
            base: what relative paths are relative to.
        """
        self._ids = table["image_id"].to_pylist()
        self._images = table["image"] if "image" in table.column_names else None
        paths = table["path"].to_pylist() if "path" in table.column_names else [None] * len(self._ids)
        paths = [os.fsdecode(path) if isinstance(path, bytes) else path for path in paths]
        self._paths = [None if path is None else join(base, path) for path in paths]
        self._coming: dict[int, Future[bytes]] = {}
        remote = any(path and "://" in path for path in self._paths)
        self._pool = ThreadPoolExecutor(_THREADS) if remote else None

    def load(self, i: int) -> Image.Image:
        """Row i as upright RGB.

        Raises:
            UserError: as `place`, or it is damaged.
        """
        return to_image(self.place(i))

    def place(self, i: int) -> ImageLike:
        """The file of row i, or its encoded image.

        Raises:
            UserError: the row names no image, or it cannot be reached.
        """
        cell = self._images[i].as_py() if self._images is not None else None
        data = cell["bytes"] if isinstance(cell, dict) else cell
        if data:
            return EncodedImage(data, self._ids[i])
        path = self._paths[i]
        if not path:
            raise UserError(f"{self._ids[i]}: the manifest holds neither an image nor a path for it; remove the row.")
        if self._pool is None or "://" not in path:
            return path
        for j in range(i, min(i + _AHEAD, len(self._paths))):
            ahead = self._paths[j]
            if ahead and "://" in ahead and j not in self._coming:
                self._coming[j] = self._pool.submit(fetch, ahead)
        return EncodedImage(self._coming.pop(i).result(), path)

    def as_named(self, i: int, message: str) -> str:
        """A message about the file of row i with the name that the user gave it, relative to another folder than this process
        is in."""
        path = self._paths[i]
        return message.replace(path, self._ids[i]) if path and path.endswith(self._ids[i]) else message

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
