"""A user's own labelled images in the three layouts."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from grpo_tta.data.custom import custom_task
from grpo_tta.data.tasks import Task, image_of, nano_tasks, sample
from grpo_tta.errors import UserError
from grpo_tta.images.inputs import decode_image

NAMES = {"cat/1.png": (10, 0), "cat/2.png": (20, 0), "polar_bear/1.png": (30, 1)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "mine"
    for name, (value, _) in NAMES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(root / name)
    (root / "cat" / "notes.txt").write_text("no image")
    return root


def read(task: Task) -> list[tuple[str, int, int]]:
    pairs = [task.load(i) for i in range(len(task.image_ids))]
    return [(name, int(np.asarray(im)[0, 0, 0]), label) for name, (im, label) in zip(task.image_ids, pairs, strict=True)]


def test_a_folder_per_class(folder: Path) -> None:
    task = custom_task(folder, template="a {}.")
    assert task.classes == ("cat", "polar bear")
    assert read(task) == [(name, *pair) for name, pair in NAMES.items()]
    assert len(custom_task(folder, template="a {}.", limit=2).image_ids) == 2


def test_a_csv(folder: Path) -> None:
    pd.DataFrame({"path": list(NAMES), "label": ["cat", "cat", "polar_bear"]}).to_csv(folder / "x.csv", index=False)
    (folder / "labels.txt").write_text("polar_bear\ncat\n")
    task = custom_task(folder / "x.csv", template="a {}.", labels_file=folder / "labels.txt")
    assert task.classes == ("polar bear", "cat")
    assert [row[2] for row in read(task)] == [1, 1, 0]


@pytest.mark.parametrize("as_struct", [False, True])
def test_parquet(folder: Path, as_struct: bool) -> None:
    data = [(folder / name).read_bytes() for name in NAMES]
    images = [{"bytes": d, "path": None} for d in data] if as_struct else data
    pd.DataFrame({"image": images, "label": ["cat", "cat", "polar_bear"]}).to_parquet(folder / "x.parquet")
    assert [row[1:] for row in read(custom_task(folder / "x.parquet", template="a {}."))] == list(NAMES.values())


def test_labels_with_names(folder: Path) -> None:
    labels = folder / "labels.json"
    labels.write_text('{"polar_bear": ["ice bear", "polar bear"], "cat": "house cat"}')
    task = custom_task(folder, template="a {}.", labels_file=labels)
    assert task.classes == ("ice bear", "house cat")
    assert [row[2] for row in read(task)] == [1, 1, 0]
    for text, message in (("{", "not a readable labels file"), ("[1]", "not an object"), ("{}", "no class names")):
        labels.write_text(text)
        with pytest.raises(UserError, match=message):
            custom_task(folder, template="a {}.", labels_file=labels)
    (folder / "labels.txt").write_text("cat\npolar_bear\ncat\n")
    with pytest.raises(UserError, match="'cat' occurs more than once"):
        custom_task(folder, template="a {}.", labels_file=folder / "labels.txt")


def test_parquet_is_read_in_any_order_and_closed(folder: Path) -> None:
    data = [(folder / name).read_bytes() for name in NAMES] * 40
    frame = pd.DataFrame({"image": data, "label": ["cat", "cat", "polar_bear"] * 40})
    frame.to_parquet(folder / "x.parquet", row_group_size=7)
    task = custom_task(folder / "x.parquet", template="a {}.", limit=50)
    expected = [list(NAMES.values())[i * 120 // 50 % 3] for i in range(50)]
    order = np.random.default_rng(0).permutation(50)
    assert [(int(np.asarray(task.load(n)[0])[0, 0, 0]), task.load(n)[1]) for n in order] == [expected[n] for n in order]
    frame.assign(image=[None, *data[1:]]).to_parquet(folder / "y.parquet")
    with pytest.raises(UserError, match="y/0: the row holds no encoded image"):
        custom_task(folder / "y.parquet", template="a {}.").load(0)


def test_what_is_off_is_named(folder: Path, tmp_path: Path) -> None:
    def refused(path: Path, message: str, **more: object) -> None:
        with pytest.raises(UserError, match=message):
            custom_task(path, template="a {}.", **more)  # type: ignore[arg-type]

    refused(tmp_path / "nowhere", "no such file or folder")
    refused(folder / "cat" / "notes.txt", "give a folder")
    (folder / "a.csv").write_text("file,label\nx,y\n")
    refused(folder / "a.csv", "column 'path' is missing")
    (folder / "b.csv").write_text("path,label\ncat/1.png,cat\ncat/1.png,cat\n")
    refused(folder / "b.csv", "occurs more than once")
    (folder / "c.parquet").write_bytes(b"nothing")
    refused(folder / "c.parquet", "not a readable Parquet")
    (folder / "labels.txt").write_text("cat\n")
    refused(folder, "'polar_bear' is not in", labels_file=folder / "labels.txt")
    refused(folder, "limit of 0", limit=0)
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, "PNG")
    pd.DataFrame({"image": [buffer.getvalue()[:30]] * 2, "label": ["cat", "dog"]}).to_parquet(folder / "d.parquet")
    with pytest.raises(UserError, match="not an image"):
        custom_task(folder / "d.parquet", template="a {}.").load(0)


def test_numbers_are_no_names(tmp_path: Path) -> None:
    for label in ("0", "1"):
        (tmp_path / "data" / label).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "data" / label / "x.png")
    with pytest.raises(UserError, match="labels are numbers; name them in a file for --labels-file"):
        custom_task(tmp_path / "data", template="a {}.")
    names = tmp_path / "names.json"
    names.write_text('{"0": "cat", "1": "dog"}')
    assert custom_task(tmp_path / "data", template="a {}.", labels_file=names).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["cat", None, "dog"], "'x/1' has no label"),
        (["cat", " ", "dog"], "'x/1' has no label"),
        ([0.0, 1.0, 1.0], "labels are numbers"),
        ([-1, 1, 1], "labels are numbers"),
    ],
)
def test_labels_that_are_none_are_refused(folder: Path, labels: list[object], message: str) -> None:
    data = [(folder / name).read_bytes() for name in NAMES]
    pd.DataFrame({"image": data, "label": labels}).to_parquet(folder / "x.parquet")
    with pytest.raises(UserError, match=message):
        custom_task(folder / "x.parquet", template="a {}.")


@pytest.mark.parametrize("content", ['{"cat": [], "polar_bear": "bear"}', '{"cat": null}', '{"cat": 3}', '{"cat": " "}'])
def test_names_that_are_none_are_refused(folder: Path, content: str) -> None:
    (folder / "labels.json").write_text(content)
    with pytest.raises(UserError, match="the name of 'cat' is"):
        custom_task(folder, template="a {}.", labels_file=folder / "labels.json")


def test_a_labels_file_with_a_byte_order_mark(folder: Path) -> None:
    (folder / "labels.txt").write_bytes(b"\xef\xbb\xbfcat\npolar_bear\n")
    assert custom_task(folder, template="a {}.", labels_file=folder / "labels.txt").classes == ("cat", "polar bear")


def test_a_parquet_of_paths_is_distinguished_from_one_of_images(folder: Path) -> None:
    for image in (list(NAMES), [{"path": name} for name in NAMES]):
        pd.DataFrame({"image": image, "label": ["cat", "cat", "bear"]}).to_parquet(folder / "x.parquet")
        with pytest.raises(UserError, match="holds no encoded images"):
            custom_task(folder / "x.parquet", template="a {}.")
    data = [{"bytes": None, "path": name} for name in NAMES]
    frame = pd.DataFrame({"image": data, "label": ["cat", "cat", "bear"]})
    frame.loc[0, "image"]["bytes"] = (folder / "cat" / "1.png").read_bytes()
    frame.to_parquet(folder / "y.parquet")
    task = custom_task(folder / "y.parquet", template="a {}.")
    assert task.load(0)[1] == 1
    with pytest.raises(UserError, match="y/1: the row holds no encoded image"):
        task.load(1)


def test_other_images_or_labels_of_the_same_names_are_another_version(folder: Path) -> None:
    def version() -> str:
        return custom_task(folder, template="a {}.", labels_file=folder / "labels.txt").version

    (folder / "labels.txt").write_text("cat\npolar_bear\n")
    first = version()
    assert version() == first
    (folder / "labels.txt").write_text("polar_bear\ncat\n")
    assert version() != first
    (folder / "labels.txt").write_text("cat\npolar_bear\n")
    Image.new("RGB", (40, 40), "red").save(folder / "cat" / "1.png")
    assert version() != first


def test_a_task_has_a_name_that_a_part_can_have(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert custom_task(Path(), template="a {}.").name == "mine"
    hidden = folder.rename(folder.parent / ".mine.v2")
    assert custom_task(hidden, template="a {}.").name == "mine.v2"


def test_few_images_stand_for_all_classes(folder: Path) -> None:
    """A file's images stand class by class; the first ones of a suite are a fair sample."""
    for n in range(8):
        Image.new("RGB", (4, 4)).save(folder / "polar_bear" / f"more{n}.png")
    task = custom_task(folder, template="a {}.")
    assert sorted(sample(task, 3)) == [0, 3, 7]
    assert sorted(sample(nano_tasks(["fog"], "tuning", 9)[0], 3)) == [0, 1, 2]


def test_what_stands_for_classes_is_looked_at(folder: Path) -> None:
    with pytest.raises(UserError, match="2 images, but not in one folder per class"):
        custom_task(folder / "cat", template="a {}.")
    split = folder.parent / "split"
    split.mkdir()
    folder.rename(split / "train")
    with pytest.raises(
        UserError, match=r"train are parts of a data set and no classes; give one of them, such as .*split/train"
    ):
        custom_task(split, template="a {}.")


def test_a_large_photograph_is_read_as_predict_reads_it(tmp_path: Path) -> None:
    """Reduced, and under the same key, from a folder and from Parquet; all its pixels where the task is asked for them."""
    buffer = io.BytesIO()
    Image.new("RGB", (2000, 1100), (200, 100, 50)).save(buffer, "JPEG")
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / "x.jpg").write_bytes(buffer.getvalue())
    pd.DataFrame({"image": [buffer.getvalue()] * 2, "label": ["a", "b"]}).to_parquet(tmp_path / "x.parquet")
    expected = decode_image(buffer.getvalue(), 200)
    for place in ("data", "x.parquet"):
        task = custom_task(tmp_path / place, template="{}")
        found, label = image_of(task, 1, 200)
        assert (found.image.size, label, found.key) == ((500, 275), 1, expected.key)
        assert found.image.tobytes() == expected.image.tobytes()
        assert task.load(1)[0].size == (2000, 1100)
    named = replace(task, keyed_by="id")
    assert image_of(named, 1, 200)[0].key == named.image_ids[1]
    changed = replace(task, load=lambda number: (Image.new("RGB", (900, 900)), 0))  # as a corruption on top does
    assert image_of(changed, 0, 200)[0].image.size == (225, 225)
