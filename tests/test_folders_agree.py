"""`predict`, `bench --data`, `datasets check folder` and the cluster's listing say the same of every folder."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grpo_tta.cluster.manifest import Images, open_manifest
from grpo_tta.cluster.sources import manifest_source
from grpo_tta.data.choose import Choice, choose_tasks
from grpo_tta.data.public.check import check_custom
from grpo_tta.data.tasks import Task
from grpo_tta.errors import UserError, as_text
from grpo_tta.images.folders import Item, find_images, walk, walk_folder
from grpo_tta.images.read import load_image
from tests.fault_cases import CASES, png
from tests.other_user import as_nobody, open_to_others

REFUSED = {"links", "parts", "domains", "flat", "alike", "nothing"}


@pytest.fixture(params=CASES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    root = tmp_path / request.param
    CASES[request.param](root)
    return root


def refusal(act: Callable[[], object]) -> str | None:
    """The sentence of a refusal; None where there is none."""
    try:
        act()
    except UserError as error:
        return str(error)
    return None


def shown(folder: Path, paths: list[Path]) -> list[str]:
    return [as_text(path.relative_to(folder).as_posix()) for path in paths]


def test_the_images_of_predict(folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    here: list[str] = []
    if (text := refusal(lambda: find_images([folder], here.append))) is not None:
        assert refusal(lambda: open_manifest(str(folder), out, labelled=False)) == text
        assert not list((tmp_path / "out").iterdir())  # else a second try would resume an empty list
        return
    found = find_images([folder])
    listed = open_manifest(str(folder), out, labelled=False)
    table = pq.read_table(listed.uri)
    assert table["image_id"].to_pylist() == [as_text(str(path)) for path in found]
    assert list(listed.notes) == here
    images = Images(table, listed.base)
    for number, path in enumerate(found):
        try:
            size = load_image(path).size
        except UserError:
            with pytest.raises(UserError):
                images.load(number)
        else:
            assert images.load(number).size == size
    assert open_manifest(str(folder), out, labelled=False).notes == listed.notes  # of a resumed run too


@pytest.mark.parametrize("allow_empty", [False, True])
def test_the_classes_of_bench(folder: Path, tmp_path: Path, allow_empty: bool) -> None:
    out = str(tmp_path / "out")
    checked = check_custom("folder", folder)
    choice = Choice(data=folder, allow_empty=allow_empty)
    if (text := refusal(lambda: choose_tasks(choice))) is not None:
        assert folder.name in REFUSED
        assert refusal(lambda: manifest_source(str(folder), out, "a {}.", None, allow_empty=allow_empty)) == text
        assert not list((tmp_path / "out").iterdir())
        if not allow_empty:
            assert checked.problems == (text,)
        return
    (task,) = choose_tasks(choice)
    source = manifest_source(str(folder), out, "a {}.", None, allow_empty=allow_empty)
    table = pq.read_table(source.manifest.uri)
    ((listed, _, _),) = source.split(table)
    assert (listed.name, listed.classes) == (task.name, task.classes)
    assert list(listed.image_ids) == list(task.image_ids)
    assert source.manifest.notes == task.notes
    if not allow_empty:
        assert (checked.classes, checked.images, checked.notes) == (len(task.classes), len(task.image_ids), task.notes)
    skipped = set(shown(folder, find_images([folder]))) - set(task.image_ids)
    assert skipped == ({"cover.png"} if folder.name == "loose" else set())


@pytest.mark.parametrize("name", ["parts", "domains"])
def test_a_part_or_a_domain(name: str, tmp_path: Path) -> None:
    root = tmp_path / name
    CASES[name](root)
    part = {"parts": "Testing", "domains": "sketch"}[name]
    (task,) = choose_tasks(Choice(data=root, split=part) if name == "parts" else Choice(data=root, domain=part))
    source = manifest_source(str(root), str(tmp_path / "out"), "a {}.", None, split=part)
    ((listed, _, _),) = source.split(pq.read_table(source.manifest.uri))
    assert (listed.name, listed.classes, list(listed.image_ids)) == (task.name, task.classes, list(task.image_ids))
    with pytest.raises(UserError, match="Ray reads one folder at a time"):
        manifest_source(str(root), str(tmp_path / "other"), "a {}.", None, domain="all")


def test_a_file_system_without_links_is_walked_alike(tmp_path: Path) -> None:
    from grpo_tta.images.remote import lister

    for name in ("junk", "phone", "loose"):
        CASES[name](tmp_path / name)
        remote = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
        found: list[Item] = list(walk(lister(remote, name)))
        assert found == list(walk_folder(tmp_path / name))


def test_what_is_not_opened_is_not_lost() -> None:
    assert set(CASES) >= REFUSED
    assert os.fsdecode(b"\xe7") == "\udce7"  # the tests need a file system of UTF-8 names


NAMES = st.sampled_from(
    ["a", "B", "train", "é", "e\u0301", "\udce7", ".x", "__MACOSX", "Thumbs.db", "x.png", "x.JPG", "y.txt", "z.jpe", "[/b]"]
)
KINDS = st.sampled_from(["image", "damaged", "empty", "folder", "up", "gone", "root"])
TREES = st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=4), KINDS), max_size=14)


def grow(root: Path, tree: list[tuple[list[str], str]]) -> None:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    contents = {"image": png(), "damaged": png()[:30], "empty": b""}
    for parts, what in tree:
        path = root.joinpath(*parts)
        with contextlib.suppress(OSError):  # the name is taken, or a file stands where a folder should
            path.parent.mkdir(parents=True, exist_ok=True)
            if what in contents:
                path.write_bytes(contents[what])
            elif what == "folder":
                path.mkdir()
            else:
                path.symlink_to({"up": path.parent.parent, "gone": Path("/nowhere/x"), "root": root}[what])


def number_in(notes: Sequence[str], what: str) -> int:
    """Files that the notes count: "skipped what is not read as an image (2 .txt, 1 .mp4)", "skipped 3 that …"."""
    (found,) = [note for note in notes if what in note] or [""]
    inside = re.search(r"an image \((.*?)\)[.;]", found)
    if inside:
        return sum(int(n) for n in re.findall(r"(?:^|, )(\d+) ", inside[1]))
    count = re.search(r"skipped (\d+) ", found)
    return int(count[1]) if count else 0


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TREES)
def test_answered_failed_and_skipped_are_all_the_files(tmp_path: Path, tree: list[tuple[list[str], str]]) -> None:
    root = tmp_path / "tree"
    grow(root, tree)
    items = list(walk_folder(root))
    # a program's own folders and files are not looked into, and stand once
    files = Counter(item.kind for item in items if item.kind not in ("folder", "loop"))
    notes: list[str] = []
    found: list[Path] = []
    text = refusal(lambda: found.extend(find_images([root], notes.append)))
    if text is not None:
        notes = re.split(rf"(?<=[.]) (?={re.escape(str(root))})", text)
    answered = failed = 0
    for path in found:
        if refusal(lambda path=path: load_image(path)) is None:  # type: ignore[misc]
            answered += 1
        else:
            failed += 1
    skipped = number_in(notes, "not read as an image") + number_in(notes, "lead nowhere")
    assert answered + failed + skipped + files["left behind"] == sum(files.values())
    # the cluster and bench walk the same tree without a traceback, and both see the same of it
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    tasks: list[Task] = []
    here = refusal(lambda: tasks.extend(choose_tasks(Choice(data=root, allow_empty=True))))
    there = refusal(lambda: manifest_source(str(root), str(tmp_path / "out"), "a {}.", None, allow_empty=True))
    assert here == there
    for task in tasks:
        loose = number_in(task.notes, "outside the class folders")
        assert len(task.image_ids) + loose == len(found)
        as_text(" ".join([*task.notes, *task.image_ids, *task.classes])).encode()


def test_a_class_without_rights_is_named_by_both(tmp_path: Path) -> None:
    """As another user, where the tests run as root, to whom every folder opens."""
    CASES["loose"](tmp_path / "mine")
    (tmp_path / "mine" / "square").chmod(0)
    open_to_others(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o777)
    code = """
import sys
from pathlib import Path
from grpo_tta.cluster.sources import manifest_source
from grpo_tta.data.choose import Choice, choose_tasks
from grpo_tta.data.public.check import check_custom
from grpo_tta.data.tasks import Task
root, out = sys.argv[1:]
acts = [
    lambda: choose_tasks(Choice(data=Path(root))),
    lambda: manifest_source(root, out, "a {}.", None),
    lambda: choose_tasks(Choice(data=Path(root) / "square")),
    lambda: manifest_source(root + "/square", out, "a {}.", None),
]
for act in acts:
    try:
        print(act())
    except ValueError as error:
        print(error)
print(*check_custom("folder", Path(root)).problems)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "mine"), str(tmp_path / "out")]
    command = as_nobody(command)
    done = subprocess.run(command, capture_output=True, text=True)
    (tmp_path / "mine" / "square").chmod(0o755)
    assert done.returncode == 0, done.stderr
    bench, cluster, closed, closed_there, check = done.stdout.splitlines()
    assert "no image in the class folder square;" in bench
    assert "skipped 1 that could not be opened or lead nowhere: square." in bench
    assert bench == cluster == check
    assert closed == closed_there
    assert closed.endswith("square: the folder cannot be opened (Permission denied); check its rights.")
