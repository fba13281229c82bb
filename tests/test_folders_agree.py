"""`predict`, `bench --data`, `datasets check folder` and the cluster's listing say the same of every folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from grpo_tta.cluster.manifest import Images, open_manifest
from grpo_tta.cluster.sources import manifest_source
from grpo_tta.data.choose import Choice, choose_tasks
from grpo_tta.data.public.check import check_custom
from grpo_tta.errors import UserError, as_text
from grpo_tta.images.folders import Item, find_images, walk, walk_folder
from grpo_tta.images.read import load_image
from tests.fault_cases import CASES

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
    assert table["image_id"].to_pylist() == shown(folder, found)
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
    from grpo_tta.cluster.manifest import _lister

    for name in ("junk", "phone", "loose"):
        CASES[name](tmp_path / name)
        remote = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
        found: list[Item] = list(walk(_lister(remote, name)))
        assert found == list(walk_folder(tmp_path / name))


def test_what_is_not_opened_is_not_lost() -> None:
    assert set(CASES) >= REFUSED
    assert os.fsdecode(b"\xe7") == "\udce7"  # the tests need a file system of UTF-8 names
