"""Adapted image features in one file, `[N, D]` with the ids of their images, written row by row.

A file of Parquet has the columns `id` and `embedding` (lists of D float32). One of NumPy (`.npz`) has the arrays `ids` and
`embeddings`. Memory does not grow with the number of images. A file is written under another name until it is whole.
"""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from grpo_tta.errors import UserError

SUFFIXES = (".parquet", ".npz")
_ROWS = 1024  # a row group


def check_file(file: Path) -> Path:
    """
    Raises:
        UserError: a suffix that is not written, or a folder that is not there.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise UserError(f"{file}: embeddings are written as {' or '.join(SUFFIXES)}; give the file one of these suffixes.")
    if file.is_dir() or not file.parent.is_dir():
        raise UserError(f"{file}: no file can be written by this name; name one in a folder that is there.")
    return file


def column(width: int) -> pa.Field:
    """The column of embeddings of D numbers."""
    return pa.field("embedding", pa.list_(pa.float32(), width))


@final
class EmbeddingFile:
    """Takes rows one by one; the file is there, whole, once this is closed. Until then the rows lie in a file beside it."""

    def __init__(self, file: Path, width: int) -> None:
        """
        Args:
            file: Parquet or `.npz`; what it holds is replaced.
            width: D.

        Raises:
            UserError: as `check_file`, or nothing can be written there.
        """
        self._file, self._width = check_file(file), width
        self._schema = pa.schema([("id", pa.string()), column(width)])
        self._rows: list[tuple[str, np.ndarray]] = []
        self._partial = file.with_name(f".{file.name}.partial")
        try:
            self._writer = pq.ParquetWriter(self._partial, self._schema)
        except OSError as error:
            raise UserError(f"{file}: cannot be written ({error.strerror}); name another place.") from None

    def add(self, image_id: str, embedding: np.ndarray) -> None:
        """One image's features, `[D]`."""
        self._rows.append((image_id, embedding))
        if len(self._rows) >= _ROWS:
            self._flush()

    def add_column(self, ids: pa.Array, embeddings: pa.Array) -> None:
        """Many images' at once, as they stand in Parquet."""
        self._flush()
        self._writer.write_table(pa.table([ids, embeddings], schema=self._schema), row_group_size=_ROWS)

    def close(self) -> None:
        """
        Raises:
            UserError: nothing can be written there.
        """
        try:
            self._flush()
            self._writer.close()
            if self._file.suffix.lower() == ".npz":
                converted = self._file.with_name(f".{self._file.name}.npz.partial")
                _to_npz(self._partial, converted, self._width)
                converted.replace(self._file)
                self._partial.unlink()
            else:
                self._partial.replace(self._file)
        except OSError as error:
            raise UserError(f"{self._file}: cannot be written ({error.strerror or error}); make room there.") from None

    def _flush(self) -> None:
        if self._rows:
            ids, rows = zip(*self._rows, strict=True)
            self._writer.write_table(pa.table([pa.array(ids), as_column(np.stack(rows))], schema=self._schema))
            self._rows = []


def as_column(embeddings: np.ndarray) -> pa.FixedSizeListArray:
    """`[N, D]` as a column of Parquet."""
    flat = pa.array(np.ascontiguousarray(embeddings, dtype=np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, embeddings.shape[1])


def _to_npz(source: Path, file: Path, width: int) -> None:
    """Two arrays as `numpy.load` reads them. The ids are of one length, so the longest is looked for first."""
    with pq.ParquetFile(source) as parquet:
        count = parquet.metadata.num_rows
        longest = max(map(len, itertools.chain.from_iterable(ids.to_pylist() for ids in _each(parquet, "id"))), default=1)

        def ids() -> Iterator[np.ndarray]:
            return (np.array(some.to_pylist(), dtype=f"<U{longest}") for some in _each(parquet, "id"))

        def embeddings() -> Iterator[np.ndarray]:
            return (some.flatten().to_numpy(zero_copy_only=False) for some in _each(parquet, "embedding"))

        with zipfile.ZipFile(file, "w") as archive:
            _write_array(archive, "ids", (count,), f"<U{longest}", ids)
            _write_array(archive, "embeddings", (count, width), "<f4", embeddings)


def _each(parquet: pq.ParquetFile, name: str) -> Iterator[pa.Array]:
    return (batch.column(0) for batch in parquet.iter_batches(_ROWS, columns=[name]))


def _write_array(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: str, batches: Callable[[], Iterable[np.ndarray]]
) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
        for batch in batches():
            stream.write(np.ascontiguousarray(batch, dtype=dtype).tobytes())
