"""One walk over folders of images, for `predict`, for a user's own data sets and for the cluster's listing.

What programs leave behind is no image and no class. Links are followed, unless they lead to one of their own ancestors. A
file that is reached by two paths stands twice, as a file manager shows it. What cannot be resolved or opened is named.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, final

from grpo_tta.errors import UserError, as_text
from grpo_tta.images.read import HEIF_SUFFIXES, SUFFIXES, remedy_of, shown_path, stat_of

_LEFT_BEHIND = frozenset(
    {"__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "lost+found", "__pycache__"}
)
_SHOWN = 5

Kind = Literal["image", "folder", "other", "left behind", "unresolved", "loop"]
"""`folder`: could be opened; its entries follow. `other`: a file that is not read as an image. `left behind`: by a program;
not looked into. `unresolved`: a link to nothing, or a folder that cannot be opened. `loop`: a link to one of its ancestors."""


@final
@dataclass(frozen=True)
class Entry:
    """What a folder holds, links resolved.

    Attributes:
        name: in its folder. Bytes that are no UTF-8 are surrogates, as Python's own functions give them.
        is_folder, is_file: neither for a link to nothing.
        key: identifies a folder, whichever path leads to it; None where the file system has no links.
    """

    name: str
    is_folder: bool
    is_file: bool
    key: Hashable = None


@final
@dataclass(frozen=True)
class Item:
    """
    Attributes:
        path: below the folder that is walked, with `/` between its parts.
        kind: see `Kind`.
    """

    path: str
    kind: Kind


Lister = Callable[[str], Iterable[Entry]]
"""Path of a folder below the one that is walked, "" for itself -> its entries in any order. Raises OSError."""


def is_left_behind(name: str) -> bool:
    """Whether a file or folder of that name is a program's own, such as `.ipynb_checkpoints` or `__MACOSX`."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def is_image(name: str) -> bool:
    """Whether a file of that name is read as an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 - called a million times


def walk(entries: Lister, ancestors: Iterable[Hashable] = ()) -> Iterator[Item]:
    """Everything below a folder, in the order of the names, one listing per level in memory.

    Args:
        entries: lists a folder; `in_folder` for one on this machine.
        ancestors: keys of the folder that is walked and of those above it.

    Raises:
        OSError: the folder itself cannot be opened.
    """
    above: list[Hashable] = [key for key in ancestors if key is not None]
    levels: list[tuple[str, bool, Iterator[Entry]]] = [("", False, _sorted(entries("")))]
    while levels:
        folder, has_key, listing = levels[-1]
        entry = next(listing, None)
        if entry is None:
            levels.pop()
            if has_key:
                above.pop()
            continue
        path = f"{folder}/{entry.name}" if folder else entry.name
        if is_left_behind(entry.name):
            yield Item(path, "left behind")
        elif entry.is_folder:
            if entry.key is not None and entry.key in above:
                yield Item(path, "loop")
                continue
            try:
                inside = _sorted(entries(path))
            except OSError:
                yield Item(path, "unresolved")
                continue
            yield Item(path, "folder")
            levels.append((path, entry.key is not None, inside))
            if entry.key is not None:
                above.append(entry.key)
        elif entry.is_file:
            yield Item(path, "image" if is_image(entry.name) else "other")
        else:
            yield Item(path, "unresolved")


def walk_folder(folder: Path) -> Iterator[Item]:
    """`walk` for a folder on this machine.

    Raises:
        OSError: it cannot be opened.
    """
    root = folder.resolve()
    return walk(in_folder(folder), [_key(place.stat()) for place in (root, *root.parents)])


def in_folder(folder: Path) -> Lister:
    """Lists a folder on this machine and those below it."""

    def entries(path: str) -> list[Entry]:
        with os.scandir(folder / path) as found:
            return [_entry(entry) for entry in found]

    return entries


def _entry(entry: os.DirEntry[str]) -> Entry:
    try:
        found = entry.stat()  # of what a link leads to
    except OSError:
        return Entry(entry.name, False, False)
    is_folder = stat.S_ISDIR(found.st_mode)
    # A pipe or a socket is a file that is not read: opening it could wait for ever.
    is_file = not is_folder and (stat.S_ISREG(found.st_mode) or not is_image(entry.name))
    return Entry(entry.name, is_folder, is_file, _key(found) if is_folder else None)


def _key(found: os.stat_result) -> Hashable:
    return found.st_dev, found.st_ino


def _sorted(entries: Iterable[Entry]) -> Iterator[Entry]:
    return iter(sorted(entries, key=lambda entry: entry.name))


@final
@dataclass
class Tally:
    """Counts what a walk leaves out, so that it can be said.

    Attributes:
        suffixes: of the files that are no images, and how many.
        unresolved: links to nothing and folders that cannot be opened; the first few by name.
        loops: links to one of their own ancestors.
    """

    suffixes: Counter[str] = field(default_factory=Counter)
    unresolved: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)
    _counts: Counter[Kind] = field(default_factory=Counter)

    def images(self, items: Iterable[Item]) -> Iterator[str]:
        """The paths of the images; everything else is counted as it goes by."""
        for item in items:
            self._counts[item.kind] += 1
            if item.kind == "image":
                yield item.path
            elif item.kind == "other":
                self.suffixes[_suffix(item.path)] += 1
            elif item.kind in ("unresolved", "loop"):
                named = self.unresolved if item.kind == "unresolved" else self.loops
                if len(named) < _SHOWN:
                    named.append(item.path)

    def count(self, kind: Kind) -> int:
        return self._counts[kind]

    def notes(self, where: object) -> tuple[str, ...]:
        """What was left out, a sentence each; empty where all files were images."""
        notes = []
        if self.suffixes:
            kinds = ", ".join(
                f"{n} {suffix}" for suffix, n in sorted(self.suffixes.items(), key=lambda pair: (-pair[1], pair[0]))
            )
            heif = any(suffix in HEIF_SUFFIXES for suffix in self.suffixes)
            remedy = "; HEIC is read with: pip install 'grpo-tta[heic]'" if heif else ""
            notes.append(f"{where}: skipped what is not read as an image ({kinds}){remedy}.")
        for named, kind, what in (
            (self.unresolved, "unresolved", "could not be opened or lead nowhere"),
            (self.loops, "loop", "link to a folder above themselves"),
        ):
            if named:
                more = self._counts[kind] - len(named)  # type: ignore[index]
                shown = ", ".join(as_text(name) for name in named) + (f" and {more} more" if more else "")
                notes.append(f"{where}: skipped {self._counts[kind]} that {what}: {shown}.")  # type: ignore[index]
        return tuple(notes)


def _suffix(path: str) -> str:
    suffix = os.path.splitext(path.rpartition("/")[2])[1].lower()  # noqa: PTH122 - as above
    return as_text(suffix) or "without a suffix"


def find_images(paths: Sequence[Path], note: Callable[[str], None] = lambda text: None) -> list[Path]:
    """Files named by the user, and every image (by its suffix) below the folders named, in sorted order.

    Args:
        note: is given what was left out in the folders, a sentence each.

    Raises:
        UserError: nothing was named, a path does not exist, or a folder holds no image or cannot be opened.
    """
    if not paths:
        raise UserError("No images were given; name files or folders.")
    found: list[Path] = []
    for path in paths:
        state = stat_of(path)
        if state is None:
            raise UserError(f"{shown_path(path)}: no such file or folder; {remedy_of(path)}.")
        if not stat.S_ISDIR(state.st_mode):
            found.append(path)
            continue
        tally = Tally()
        inside = [path / name for name in tally.images(walk_opened(path))]
        notes = tally.notes(path)
        if not inside:
            raise UserError(" ".join([f"{path}: no images in this folder.", *notes]))
        for text in notes:
            note(text)
        found += inside
    return list(dict.fromkeys(found))


def walk_opened(folder: Path) -> Iterator[Item]:
    """`walk_folder`, for a folder that a user named.

    Raises:
        UserError: it cannot be opened.
    """
    try:
        yield from walk_folder(folder)
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be opened ({error.strerror}); check its rights.") from None
