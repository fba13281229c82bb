"""The images that a command is given: files, folders, quoted globs, URLs, and lists of names from a file or a pipe."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from grpo_tta.errors import UserError, as_text
from grpo_tta.images.folders import find_images, is_image, is_left_behind
from grpo_tta.images.remote import Place, fetch, find_by_url, is_url

STANDARD_INPUT = "-"


def find_inputs(paths: Sequence[str], files_from: str, note: Callable[[str], None]) -> list[Place]:
    """All images, each once, in the order in which they were named.

    Args:
        paths: files, folders, globs, URLs of files or folders, or `-` for a list on standard input.
        files_from: name of a file that lists images, or `-`; "" for none.
        note: is given what was left out, a sentence each.

    Raises:
        UserError: nothing was named, a path does not exist, a glob matches no image, or a list cannot be read. A file that
            a list names and that is not there is no reason to stop: it gets a row that says so.

    A URL of a list is a folder where it ends with `/`; else it is taken for an image, and looked for when it is read.
    """
    lists = [path for path in [*paths, files_from] if path == STANDARD_INPUT]
    if len(lists) > 1:
        raise UserError("Standard input was named more than once; it can be read only once.")
    found: list[Place] = []
    for path in paths:
        if path == STANDARD_INPUT:
            found += _listed(path, note)
        elif is_url(path):
            found += find_by_url(path, note)
        elif glob.has_magic(path) and not os.path.lexists(path):
            found += _matching(path, note)
        else:
            found += find_images([Path(path)], note)
    if files_from:
        found += _listed(files_from, note)
    if not found:
        if paths or files_from:
            raise UserError("The list names no images; write one per line, or separate them by NUL.")
        raise UserError("No images were given; name files or folders, or a list by --files-from.")
    return list(dict.fromkeys(found))


def _matching(pattern: str, note: Callable[[str], None]) -> list[Path]:
    """Files that a glob matches and that are read as images; `**` stands for any number of folders."""
    named = set(Path(pattern).parts)
    matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 - of any root
    files = [path for path in matches if path.is_file() and not any(is_left_behind(x) for x in set(path.parts) - named)]
    images = [path for path in files if is_image(path.name)]
    if not images:
        raise UserError(f"{as_text(pattern)}: no image matches; check the pattern ('photos/**/*.jpg' looks in all folders).")
    if len(images) < len(files):
        note(f"{pattern}: skipped {len(files) - len(images)} that are not read as images.")
    return images


def _listed(source: str, note: Callable[[str], None]) -> list[Place]:
    try:
        content = fetch(source) if is_url(source) else _read(source)
    except OSError as error:
        raise UserError(f"{source}: the list cannot be read ({error.strerror}); check the path.") from None
    found: list[Place] = []
    for name in map(os.fsdecode, _names(content)):
        if is_url(name):
            found += find_by_url(name, note) if name.endswith("/") else [name]
            continue
        path = Path(name)
        found += find_images([path], note) if path.is_dir() else [path]
    return found


def _read(source: str) -> bytes:
    return sys.stdin.buffer.read() if source == STANDARD_INPUT else Path(source).read_bytes()


def _names(content: bytes) -> list[bytes]:
    """Names separated by NUL (`find -print0`) or, where there is none, by line ends of any system."""
    if b"\0" in content:
        return [name for name in content.split(b"\0") if name]
    return [name for name in content.removeprefix(b"\xef\xbb\xbf").splitlines() if name.strip()]
