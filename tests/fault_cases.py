"""Folders as people have them, each of which stands for a kind of fault."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

KINDS = ("star", "circle", "square")


def png(value: int = 0, size: int = 4) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value % 256, np.uint8)).save(file, "PNG")
    return file.getvalue()


def put(path: Path, content: bytes | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(sum(map(ord, str(path.name)))) if content is None else content)


def class_folders(root: Path, kinds: tuple[str, ...] = KINDS, images: int = 2) -> None:
    for kind in kinds:
        for number in range(images):
            put(root / kind / f"{number}.png")


def junk(root: Path) -> None:
    class_folders(root)
    for name in (".ipynb_checkpoints/0.png", "star/.ipynb_checkpoints/0.png", "__MACOSX/star/._1.png", "@eaDir/star/x.jpg"):
        put(root / name)
    put(root / "star" / "._1.png", b"\0\5\x16\7")
    put(root / "star" / "Thumbs.db", b"x")


def cp1251(root: Path) -> None:
    for name in ("звез", "круг", "куб"):
        for number in range(2):
            put(root / os.fsdecode(name.encode("cp1251")) / os.fsdecode(b"\xea%d.png" % number))


def links(root: Path) -> None:
    class_folders(root, ("star", "circle"))
    store = root.with_name("store-of-links")
    class_folders(store, (".",))
    for name in ("square", "triangle", "heart"):
        (root / name).mkdir()
    put(root / "heart" / "IMG_0001.HEIX", b"x")
    for link, target in {
        "square/0.png": Path("/nowhere/a.png"), "star/2.png": Path("/nowhere/b.png"), "circle/more": store, "linked": store,
        "star/loop": root, "gone": Path("/nowhere"),
    }.items():  # fmt: skip
        (root / link).symlink_to(target)


def parts(root: Path) -> None:
    for part in ("Training", "Testing"):
        class_folders(root / part, ("star", "circle"))


def domains(root: Path) -> None:
    for domain in ("photo", "sketch", "cartoon"):
        class_folders(root / domain)


def tie(root: Path) -> None:
    class_folders(root, ("Star", "star", "caf\u00e9", "cafe\u0301"), 1)


def phone(root: Path) -> None:
    for name, kind in {"a.png": "PNG", "b.jpe": "JPEG", "c.mpo": "MPO", "d.apng": "PNG", "E.JPEG": "JPEG"}.items():
        for folder in ("circle", "star"):
            file = io.BytesIO()
            Image.new("RGB", (8, 8), "red").save(file, kind)
            put(root / folder / name, file.getvalue())
    for name in ("notes.txt", "more.txt", "README", "clip.mp4"):
        put(root / "star" / name, b"x")


def loose(root: Path) -> None:
    class_folders(root)
    put(root / "cover.png")


def flat(root: Path) -> None:
    class_folders(root, (".",))


def damaged(root: Path) -> None:
    class_folders(root)
    put(root / "star" / "half.png", png()[:40])
    put(root / "star" / "none.jpg", b"")


def alike(root: Path) -> None:
    for name in (rb"\xe7", b"\xe7", b"a"):
        put(root / os.fsdecode(name) / "1.png")


def nothing(root: Path) -> None:
    put(root / "notes" / "a.txt", b"x")


CASES: dict[str, Callable[[Path], None]] = {
    make.__name__: make for make in (junk, cp1251, links, parts, domains, tie, phone, loose, flat, damaged, alike, nothing)
}
