"""Images by URL: whatever a folder lists can be opened, and what is missing is one sentence."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from PIL import Image

from grpo_tta.errors import UserError
from grpo_tta.images.inputs import to_image
from grpo_tta.images.remote import Place, below, fetch, find_by_url, is_url, locate, place_of

ODD = ["a b.png", "deep/er/50%25 #1 ä.png", "plain.png", "deep/[x].PNG"]
"""Names that a decoded, a split or a quoted URL would lose."""


def loaded(place: Place) -> Image.Image:
    return to_image(place_of(place))


def encoded(colour: str) -> bytes:
    Image.new("RGB", (9, 7), colour).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The same files on this machine, by its URL, and in the memory of fsspec."""
    memory = fsspec.filesystem("memory")
    files = {name: encoded("red") for name in ODD} | {"note.txt": b"a note", ".hidden/x.png": encoded("red")}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
        memory.pipe(f"/photos/{name}", content)
    yield {"file": tmp_path.as_uri(), "memory": "memory://photos"}
    memory.rm("/photos", recursive=True)


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_whatever_a_folder_lists_can_be_opened(scheme: str, folders: dict[str, str]) -> None:
    notes: list[str] = []
    for url in (folders[scheme], folders[scheme] + "/"):
        found = find_by_url(url, notes.append)
        assert sorted(found) == sorted(f"{folders[scheme]}/{name}" for name in ODD)
    assert [loaded(place).size for place in found] == [(9, 7)] * 4
    assert "skipped what is not read as an image (1 .txt)" in notes[0]
    assert find_by_url(found[0], notes.append) == found[:1]


def test_urls_and_paths() -> None:
    assert [is_url(x) for x in ("s3://b/x", "memory://", "https://a.b/c.png")] == [True] * 3
    assert [is_url(x) for x in ("photos/a.png", "C:\\x.png", "odd://"[:4], "9a://x", "/x/s3://y")] == [False] * 5
    assert below("s3://b/p?region=x", "a?.png") == "s3://b/p/a?.png?region=x"
    assert locate("memory://x/y/")[1] == "/x/y"
    assert locate("file:///tmp/a%20b?.png"[:-5])[1] == "/tmp/a%20b"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://nothing/here", "no such file or folder; check the address."),
        ("memory://nothing/*.png", "globs are not expanded in URLs"),
        ("nosuch://x/y.png", r"no file system for it .*install the fsspec package"),
    ],
)
def test_what_is_missing_is_one_sentence(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_by_url(url, lambda text: None)


def test_a_missing_driver_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(uri: str) -> None:
        raise ImportError("Install adlfs to access Azure Datalake Gen2")

    monkeypatch.setattr(fsspec.core, "url_to_fs", without)
    with pytest.raises(UserError, match=r"no file system for it \(Install adlfs.*install the fsspec package that serves it"):
        fetch("adl://never-asked-before/x.png")


def test_empty_folders_and_damaged_files(folders: dict[str, str]) -> None:
    fsspec.filesystem("memory").pipe("/photos/bad/c.txt", b"x")
    with pytest.raises(UserError, match=r"no images in this folder\. .*1 \.txt"):
        find_by_url("memory://photos/bad", lambda text: None)
    with pytest.raises(UserError, match=r"memory://photos/gone\.png: cannot be read"):
        loaded("memory://photos/gone.png")
    with pytest.raises(UserError, match=r"memory://photos/note\.txt: not an image"):
        loaded("memory://photos/note.txt")


def test_addresses_of_the_web(folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        root = f"http://127.0.0.1:{server.server_port}"
        assert loaded(f"{root}/a%20b.png?size=full").size == (9, 7)
        with pytest.raises(UserError, match=r"gone\.png: cannot be fetched .*404"):
            fetch(f"{root}/gone.png")
        server.shutdown()
        thread.join()

    def refuse(*arguments: object, **more: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "create_connection", refuse)
    assert find_by_url("https://example.org/x.png", lambda text: None) == ["https://example.org/x.png"]  # read when it is due
