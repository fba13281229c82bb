"""Manifests: folders listed into Parquet, rows read back as images, on local and other file systems."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from grpo_tta.cluster.attempts import PATIENCE, Attempts
from grpo_tta.cluster.manifest import Images, join, open_manifest
from grpo_tta.errors import UserError
from grpo_tta.images.remote import filesystem


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def red(image: Image.Image) -> int:
    return int(np.asarray(image)[0, 0, 0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, value in {"dog/2.png": 20, "cat/a/1.png": 10, "top.png": 30}.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(png(value))
    (tmp_path / "in" / "notes.txt").write_text("no image")
    return tmp_path / "in"


def test_a_folder_becomes_a_manifest(folder: Path, tmp_path: Path) -> None:
    found = open_manifest(str(folder), str(tmp_path / "a"), labelled=False)
    rows = pq.read_table(found.uri)
    assert (found.rows, found.name, found.base) == (3, "in", str(folder))
    names = ["cat/a/1.png", "dog/2.png", "top.png"]
    assert rows["image_id"].to_pylist() == [str(folder / name) for name in names]  # as a run on this machine names them
    assert rows["path"].to_pylist() == [name.encode() for name in names]
    assert rows["order"].to_pylist() == [0, 1, 2]
    images = Images(rows, found.base)
    assert [red(images.load(i)) for i in range(3)] == [10, 20, 30]
    labelled = open_manifest(str(folder), str(tmp_path / "b"), labelled=True)
    assert pq.read_table(labelled.uri)["label"].to_pylist() == ["cat", "dog"]  # the image at the top has no label
    assert labelled.labels() == {"cat": "cat", "dog": "dog"}
    assert labelled.notes == (
        f"{folder}: skipped what is not read as an image (1 .txt).",
        f"{folder}: skipped 1 image outside the class folders.",
    )
    (folder / "new.png").write_bytes(png(1))  # a resumed run keeps the list it began with
    assert open_manifest(str(folder), str(tmp_path / "a"), labelled=False).rows == 3


def test_other_file_systems(folder: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for number in range(40):
        memory.pipe(f"/pics/{number:02d}.png", png(number))
    found = open_manifest("memory://pics", str(tmp_path / "out"), labelled=False)
    rows = pq.read_table(found.uri)
    images = Images(rows, found.base)
    assert [red(images.load(i)) for i in range(40)] == list(range(40))
    images.close()
    assert open_manifest(f"file://{folder}", str(tmp_path / "c"), labelled=False).rows == 3
    fs, path = filesystem("memory://x/run.json")
    with fs.open_output_stream(path) as stream:
        stream.write(b"1")
    assert memory.cat("/x/run.json") == b"1"


def test_bytes_or_paths(folder: Path) -> None:
    columns = {"image_id": ["a", "b", "c", "d"], "image": [{"bytes": png(7)}, None, {"bytes": png(9)[:20]}, None],
               "path": [None, "dog/2.png", None, None]}  # fmt: skip
    images = Images(pa.table(columns), str(folder))
    assert [red(images.load(0)), red(images.load(1))] == [7, 20]
    with pytest.raises(UserError, match="c: "):
        images.load(2)
    with pytest.raises(UserError, match="neither an image nor a path"):
        images.load(3)
    assert join("/x/", "a") == "/x/a"
    assert join("s3://x", "/a") == "/a"
    assert join("/x", "s3://a") == "s3://a"


def test_what_is_off_is_named(folder: Path, tmp_path: Path) -> None:
    def refused(source: object, message: str, **columns: object) -> None:
        if columns:
            source = tmp_path / "x.parquet"
            pq.write_table(pa.table(columns), source)
        with pytest.raises(UserError, match=message):
            open_manifest(str(source), str(tmp_path / "out"), labelled=True)

    refused(tmp_path / "nowhere", "no such file or folder")
    refused(folder / "notes.txt", "a Parquet manifest or a folder")
    refused(folder / "dog", "1 image, but not in one folder per class")
    refused("nosuch://x", "no file system for it")
    refused("", "'image_id' of strings", image_id=[1], path=["a"], label=["x"])
    refused("", "'image_id' of strings", path=["a"], label=["x"])
    refused("", "'path' or 'image' is needed", image_id=["1"], label=["x"])
    refused("", "'label' is missing", image_id=["1"], path=["a"])
    (tmp_path / "y.parquet").write_text("nothing")
    refused(tmp_path / "y.parquet", "not a readable Parquet file")


class _DeathError(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def test_a_chunk_that_kills_is_done_image_by_image(tmp_path: Path) -> None:
    ids, done = ["a", "bad", "c"], []

    def work(some: slice, given_up: bool) -> list[str]:
        done.append((ids[some], given_up))
        if "bad" in ids[some] and not given_up:
            raise _DeathError
        return ids[some]

    found: list[list[str]] = []
    tries = 0
    while not found and tries < 9:
        tries += 1
        with contextlib.suppress(_DeathError):
            found = Attempts(str(tmp_path / "notes")).run(ids, work)
    assert tries == 2 * PATIENCE + 1
    assert found == [["a"], ["bad"], ["c"]]
    assert done[:PATIENCE] == [(ids, False)] * PATIENCE
    assert done[-3:] == [(["a"], False), (["bad"], True), (["c"], False)]
    assert not list((tmp_path / "notes").iterdir())


def test_innocent_deaths_cost_no_image(tmp_path: Path) -> None:
    deaths = iter([True, True, True, False, False])

    def work(some: slice, given_up: bool) -> bool:
        if next(deaths):
            raise _DeathError
        return given_up

    for _ in range(3):
        with pytest.raises(_DeathError):
            Attempts(str(tmp_path)).run(["a", "b"], work)
    assert Attempts(str(tmp_path)).run(["a", "b"], work) == [False, False]
