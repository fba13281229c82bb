"""A file of embeddings: whole or not there, and readable by what users have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from grpo_tta.bench import embeddings
from grpo_tta.bench.embeddings import EmbeddingFile, as_column, check_file
from grpo_tta.errors import UserError

ROWS = np.arange(35, dtype=np.float32).reshape(7, 5) / 3
IDS = [f"photos/{'ä' * number}.png" for number in range(7)]


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "_ROWS", 3)


def write(file: Path, count: int = 7) -> None:
    output = EmbeddingFile(file, 5)
    for name, row in zip(IDS[:count], ROWS, strict=False):
        output.add(name, row)
        assert not file.exists()
    output.close()


@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_parquet_and_numpy_hold_the_same(tmp_path: Path, count: int) -> None:
    write(tmp_path / "e.parquet", count)
    table = pq.read_table(tmp_path / "e.parquet")
    assert table["id"].to_pylist() == IDS[:count]
    assert str(table.schema.field("embedding").type).startswith("fixed_size_list")
    assert np.array_equal(np.array(table["embedding"].to_pylist(), dtype=np.float32).reshape(count, 5), ROWS[:count])
    write(tmp_path / "e.npz", count)
    found = np.load(tmp_path / "e.npz")
    assert found["ids"].tolist() == IDS[:count]
    assert found["embeddings"].dtype == np.float32
    assert np.array_equal(found["embeddings"], ROWS[:count])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.npz", "e.parquet"]  # nothing is left beside them


def test_columns_of_parquet_join_single_rows(tmp_path: Path) -> None:
    output = EmbeddingFile(tmp_path / "e.npz", 5)
    output.add(IDS[0], ROWS[0])
    output.add_column(np.array(IDS[1:3]).tolist(), as_column(ROWS[1:3]))  # type: ignore[arg-type]
    output.add(IDS[3], ROWS[3])
    output.close()
    found = np.load(tmp_path / "e.npz")
    assert found["ids"].tolist() == IDS[:4]
    assert np.array_equal(found["embeddings"], ROWS[:4])


def test_an_unfinished_file_leaves_the_old_one(tmp_path: Path) -> None:
    write(tmp_path / "e.parquet", 2)
    EmbeddingFile(tmp_path / "e.parquet", 5).add(IDS[5], ROWS[5])
    assert pq.read_table(tmp_path / "e.parquet")["id"].to_pylist() == IDS[:2]


@pytest.mark.parametrize("name", ["e.npy", "e", "nowhere/e.npz"])
def test_names_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"e(\.npy|\.npz)?: (embeddings are written as|no file can be written)"):
        check_file(tmp_path / name)
