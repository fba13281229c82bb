"""The walk over folders: what is an image, what is skipped, and that nothing vanishes without a word."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from grpo_tta.errors import UserError, as_text
from grpo_tta.images import read
from grpo_tta.images.folders import Tally, find_images, walk_folder
from tests.other_user import as_nobody, open_to_others


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix.lower()
    Image.new("RGB", (8, 8), "red").save(path, {".mpo": "MPO", ".apng": "PNG", ".png": "PNG"}.get(suffix, "JPEG"))
    return path


def kinds(root: Path) -> dict[str, str]:
    return {item.path: item.kind for item in walk_folder(root)}


def test_what_programs_leave_behind_is_no_image(tmp_path: Path) -> None:
    names = ["__MACOSX/star/._1.png", "star/._1.png", "@eaDir/a.jpg", ".ipynb_checkpoints/0.png", "Thumbs.db", "star/1.png"]
    for name in names:
        put(tmp_path / name)
    assert find_images([tmp_path]) == [tmp_path / "star/1.png"]
    assert find_images([tmp_path / "star/._1.png"]) == [tmp_path / "star/._1.png"]  # named by the user
    hidden = tmp_path.rename(tmp_path.with_name(".hidden"))
    assert find_images([hidden]) == [hidden / "star/1.png"]
    hidden.rename(tmp_path)


def test_links_are_followed_but_not_into_their_ancestors(tmp_path: Path) -> None:
    store = tmp_path / "store"
    for n in range(3):
        put(store / f"{n}.png")
    root = tmp_path / "root"
    put(root / "star" / "0.png")
    for link, target in {
        "star/loop": root,
        "star/up": tmp_path,
        "star/self": root / "star",
        "star/more": store,
        "linked": store,
        "star/gone.png": Path("/nowhere/a.png"),
        "star/gone": Path("/nowhere"),
        "star/again.png": root / "star" / "0.png",
    }.items():
        (root / link).symlink_to(target)
    found = kinds(root)
    assert [name for name, kind in found.items() if kind == "image"] == [
        *(f"linked/{n}.png" for n in range(3)), "star/0.png", "star/again.png", *(f"star/more/{n}.png" for n in range(3))
    ]  # fmt: skip
    assert {name for name, kind in found.items() if kind == "loop"} == {"star/loop", "star/up", "star/self"}
    assert {name for name, kind in found.items() if kind == "unresolved"} == {"star/gone.png", "star/gone"}
    notes: list[str] = []
    find_images([root], notes.append)
    assert notes[0].endswith("skipped 2 that could not be opened or lead nowhere: star/gone, star/gone.png.")
    assert notes[1].endswith("skipped 3 that link to a folder above themselves: star/loop, star/self, star/up.")


def test_two_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    put(tmp_path / "a" / "1.png")
    put(tmp_path / "b" / "2.png")
    (tmp_path / "a" / "b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "a").symlink_to(tmp_path / "a")
    images = [name for name, kind in kinds(tmp_path).items() if kind == "image"]
    assert images == ["a/1.png", "a/b/2.png", "b/2.png", "b/a/1.png"]


def test_a_phones_folder(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpe", "c.mpo", "d.apng", "E.JPEG"):
        put(tmp_path / name)
    for name in ("notes.txt", "more.txt", "README", "clip.mp4"):
        (tmp_path / name).write_bytes(b"x")
    notes: list[str] = []
    found = find_images([tmp_path], notes.append)
    assert [path.name for path in found] == ["E.JPEG", "a.png", "b.jpe", "c.mpo", "d.apng"]
    assert [read.load_image(path).size for path in found] == [(8, 8)] * 5
    assert notes == [f"{tmp_path}: skipped what is not read as an image (2 .txt, 1 .mp4, 1 without a suffix)."]


def test_heic_needs_a_library_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "IMG_0001.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 200)
    if read._HEIF:
        assert len(find_images([tmp_path])) == 1
        return
    with pytest.raises(UserError, match=r"no images in this folder.*1 \.heic.*pip install 'grpo-tta\[heic\]'"):
        find_images([tmp_path])
    with pytest.raises(UserError, match=r"pip install 'grpo-tta\[heic\]'"):
        read.load_image(tmp_path / "IMG_0001.HEIC")


def test_a_genuine_heic_file(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.new("RGB", (64, 48), "red")).save(str(tmp_path / "a.HEIC"))
    (found,) = find_images([tmp_path])
    assert read.load_image(found).getpixel((5, 5))[0] > 240  # type: ignore[index]


def test_a_genuine_avif_file(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.avif")
    (found,) = find_images([tmp_path])
    assert read.load_image(found).size == (64, 48)


def test_every_suffix_that_pillow_reads_is_read_or_left_out_on_purpose() -> None:
    """PostScript and metafiles run other programs; the rest are no images, or Pillow has no reader of its own for them."""
    left_out = {"EPS", "WMF", "MPEG", "HDF5", "GRIB", "BUFR"}
    Image.init()
    for suffix, name in Image.registered_extensions().items():
        if name in Image.OPEN and name not in left_out:
            assert suffix in read.SUFFIXES, suffix
            assert name in read.FORMATS, name
    assert not left_out & set(read.FORMATS)


def test_names_of_other_bytes_stay_apart(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"\xe7\xe2")
    for name in ("звез", "круг"):
        put(root / os.fsdecode(name.encode("cp1251")) / os.fsdecode(b"\xea.png"))
    found = find_images([root])
    assert [read.load_image(path).size for path in found] == [(8, 8)] * 2
    shown = [as_text(str(path)) for path in found]
    assert len(set(shown)) == 2
    assert shown[0].endswith(r"\xe7\xe2/\xe7\xe2\xe5\xe7/\xea.png")
    shutil.rmtree(root)


def test_a_folder_without_rights_is_named(tmp_path: Path) -> None:
    put(tmp_path / "in" / "open" / "1.png")
    put(tmp_path / "in" / "closed" / "1.png")
    (tmp_path / "in" / "closed").chmod(0)
    open_to_others(tmp_path)
    code = (
        "import sys; from pathlib import Path\nfrom grpo_tta.images.folders import find_images\n"
        "from grpo_tta.images.read import load_image\n"
        "root = Path(sys.argv[1])\n"
        "print(len(find_images([root / 'in'], print)))\n"
        "for act in (lambda: find_images([root / 'in' / 'closed']), lambda: load_image(root / 'in' / 'closed' / '1.png')):\n"
        "    try: act()\n"
        "    except ValueError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    command = as_nobody(command)
    done = subprocess.run(command, capture_output=True, text=True)
    (tmp_path / "in" / "closed").chmod(0o755)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].endswith("skipped 1 that could not be opened or lead nowhere: closed.")
    assert lines[1] == "1"
    assert lines[2].endswith("closed: the folder cannot be opened (Permission denied); check its rights.")
    assert "Permission denied" in lines[3]


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "/".join(["a" * 200] * 30), "data:image/png;base64," + "iVBO" * 5000])
def test_names_that_are_too_long(name: str) -> None:
    for act in (lambda: find_images([Path(name)]), lambda: read.load_image(name)):
        with pytest.raises(UserError, match="File name too long") as caught:
            act()
        assert len(str(caught.value)) < 250
    with pytest.raises(UserError, match=r"no file or folder can be opened|no such file"):
        read.load_image("a\0b.png")


NAMES = st.sampled_from(["a", "B", "é", "\udce7", ".x", "__MACOSX", "x.png", "x.JPG", "y.txt", "z.jpe", "w.heic", " ", "[/b]"])
TREES = st.lists(
    st.tuples(st.lists(NAMES, min_size=1, max_size=4), st.sampled_from(["file", "up", "gone", "root"])), max_size=12
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TREES)
def test_every_file_is_an_image_or_counted(tmp_path: Path, tree: list[tuple[list[str], str]]) -> None:
    root = tmp_path / "tree"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for parts, what in tree:
        path = root.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if what == "file":
                path.touch()
            else:
                path.symlink_to({"up": path.parent.parent, "gone": Path("/nowhere/x"), "root": root}[what])
        except OSError:  # the name is taken, or a file stands where a folder should
            continue
    counts = Counter(item.kind for item in walk_folder(root))
    tally = Tally()
    images = list(tally.images(walk_folder(root)))
    assert len(images) == counts["image"]
    assert sum(tally.suffixes.values()) == counts["other"]
    assert [tally.count(kind) for kind in ("unresolved", "loop")] == [counts["unresolved"], counts["loop"]]
    assert all((root / name).is_file() for name in images)
    as_text(" ".join(tally.notes(root))).encode()
    files = [p for p in root.rglob("*") if not p.is_symlink() and p.is_file()]
    seen = {item.path for item in walk_folder(root)}
    for path in files:
        name = path.relative_to(root)
        assert name.as_posix() in seen or any(part.startswith((".", "__MACOSX")) for part in name.parts)
