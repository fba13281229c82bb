"""Images by URL: files and folders on any file system that pyarrow or fsspec serves, and addresses of the web.

The network is touched because the user named a URL, and only for what it names. Paths of URLs are taken as they stand, without
percent-decoding, so that whatever a folder lists can be opened; a query (`s3://bucket/photos?region=eu-west-1`) goes to the
file system. Addresses of the web are fetched as they are; they name images, never folders.
"""

from __future__ import annotations

import functools
import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.fs as pafs

from grpo_tta.errors import UserError, first_line, sentence
from grpo_tta.images.folders import Entry, Lister, Tally, walk
from grpo_tta.images.inputs import EncodedImage

Place = Path | str
"""A path on this machine, or (as text) a URL."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_WEB = ("http://", "https://")


def is_url(name: str) -> bool:
    return _URL.match(name) is not None


def is_web(name: str) -> bool:
    return name.lower().startswith(_WEB)


def place_of(place: Place) -> Path | EncodedImage:
    """What is to be decoded: the path as it is, or the bytes of the URL, which are fetched.

    Raises:
        UserError: a URL cannot be reached, or nothing is there.
    """
    return EncodedImage(fetch(place), place) if isinstance(place, str) else place


def fetch(url: str, timeout: float | None = None) -> bytes:
    """The bytes of a file.

    Args:
        timeout: seconds to wait for the web. None waits for ever.

    Raises:
        UserError: it cannot be reached, or nothing is there.
    """
    if is_web(url):
        request = urllib.request.Request(url, headers={"User-Agent": "grpo-tta"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return cast(bytes, answer.read())
        except (OSError, ValueError) as error:  # no such host, refused, not found, too slow, or no address
            raise UserError(
                f"{url}: cannot be fetched ({error}); check the address, or save the image and give its path."
            ) from None
    try:
        fs, path = locate(url)
        with fs.open_input_stream(path) as stream:
            return cast(bytes, stream.read())
    except UserError:
        raise
    except Exception as error:  # whatever a file system of fsspec raises
        raise UserError(f"{url}: cannot be read ({sentence(error)}); check the path and your credentials.") from None


def find_by_url(url: str, note: Callable[[str], None]) -> list[str]:
    """The URL of an image, or those of all images in a folder, by the walk and the judgement of folders on this machine.

    Args:
        note: is given what was left out, a sentence each.

    Raises:
        UserError: nothing is there, it cannot be reached, or a folder holds no image.
    """
    if is_web(url):
        return [url]
    fs, path = locate(url)
    try:
        kind = fs.get_file_info(path).type
    except Exception as error:  # whatever a file system of fsspec raises
        raise UserError(f"{url}: cannot be reached ({first_line(error)}); check the address and your credentials.") from None
    if kind == pafs.FileType.NotFound:
        hint = " (globs are not expanded in URLs)" if "*" in url else ""
        raise UserError(f"{url}: no such file or folder; check the address{hint}.")
    if kind == pafs.FileType.File:
        return [url]
    tally = Tally()
    try:
        found = [below(url, name) for name in tally.images(walk(lister(fs, path)))]
    except OSError as error:
        raise UserError(f"{url}: the folder cannot be opened ({first_line(error)}); check your rights.") from None
    notes = tally.notes(url)
    if not found:
        raise UserError(" ".join([f"{url}: no images in this folder.", *notes]))
    for text in notes:
        note(text)
    return found


def lister(fs: pafs.FileSystem, folder: str) -> Lister:
    """Lists a folder on a file system without links."""

    def entries(path: str) -> Iterator[Entry]:
        for info in fs.get_file_info(pafs.FileSelector(f"{folder}/{path}" if path else folder)):
            yield Entry(info.base_name, info.type == pafs.FileType.Directory, info.type == pafs.FileType.File)

    return entries


def below(url: str, name: str) -> str:
    """The URL of something in a folder; a query stays at the end."""
    folder, mark, query = url.partition("?")
    return f"{folder.rstrip('/')}/{name}{mark}{query}"


def locate(url: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a URL, and the path on it.

    Raises:
        UserError: nothing installed serves the scheme, or it refuses.
    """
    if "::" in url:  # fsspec's archives within file systems
        return filesystem(url)
    address, mark, query = url.partition("?")
    scheme, _, rest = address.partition("://")
    host, _, path = rest.partition("/")
    fs, root = _filesystem_of(f"{scheme}://{host}/{mark}{query}")
    return fs, f"{root.rstrip('/')}/{path.rstrip('/')}".rstrip("/") or "/"


@functools.lru_cache(maxsize=64)
def _filesystem_of(root: str) -> tuple[pafs.FileSystem, str]:
    return filesystem(root)


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a path or URI, and the path on it: what pyarrow knows (local, s3, gs, hdfs), else fsspec.

    Raises:
        UserError: nothing installed serves the scheme, or it refuses.
    """
    if "://" not in uri:
        return pafs.LocalFileSystem(), Path(uri).absolute().as_posix()
    try:
        return pafs.FileSystem.from_uri(uri)
    except pa.ArrowInvalid:
        pass  # a scheme that pyarrow does not know
    except (OSError, ValueError) as error:
        raise UserError(f"{uri}: cannot be reached ({error}); check the address and your credentials.") from None
    import fsspec

    try:
        found, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError, OSError) as error:
        raise UserError(f"{uri}: no file system for it ({error}); install the fsspec package that serves it.") from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(found)), path
