"""Faults that people meet in their folders, tables and labels files: a right answer or one sentence, no silent change."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from grpo_tta.data.choose import Choice, choose_tasks
from grpo_tta.data.custom import custom_task, custom_tasks
from grpo_tta.data.labels import class_names, number_repeated, read_labels
from grpo_tta.data.public.check import check_custom
from grpo_tta.data.public.imagenet import class_names as imagenet_names
from grpo_tta.data.tasks import Task
from grpo_tta.errors import UserError

KINDS = ("star", "circle", "square")


def png(value: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def put(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(value))


def classes(root: Path, kinds: tuple[str, ...] = KINDS, images: int = 2) -> Path:
    for label, kind in enumerate(kinds):
        for n in range(images):
            put(root / kind / f"{n}.png", 10 * label + n)
    return root


def task(path: Path, **options: Any) -> Task:
    return custom_task(path, template="a {}.", **options)


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        task(path, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


# What programs leave behind


def test_what_programs_leave_behind_is_no_class(tmp_path: Path) -> None:
    root = classes(tmp_path / "junk")
    for name in (".ipynb_checkpoints/0.png", "star/.ipynb_checkpoints/0.png", "__MACOSX/star/._1.png", "@eaDir/star/x.jpg"):
        put(root / name)
    (root / "star" / "._1.png").write_bytes(b"\0\5\x16\7")
    found = task(root)
    assert found.classes == ("circle", "square", "star")
    assert len(found.image_ids) == 6
    assert [found.load(n)[1] for n in range(6)] == [0, 0, 1, 1, 2, 2]
    checked = check_custom("folder", root)
    assert (checked.classes, checked.images, checked.problems) == (3, 6, ())


# Parquet labels that are not text


def parquet(path: Path, labels: pa.Array, **columns: pa.Array) -> Path:
    image = pa.array([png(n) for n in range(len(labels))], pa.binary())
    pq.write_table(pa.table({"image": image, "label": labels, **columns}), path)
    return path


NAMES = [kind for kind in KINDS for _ in range(2)]


@pytest.mark.parametrize(
    "labels",
    [
        pa.array([name.encode() for name in NAMES], pa.binary()),
        pa.array([name.encode() for name in NAMES], pa.large_binary()),
        pa.array(NAMES).dictionary_encode(),
        pa.array([name.encode() for name in NAMES]).dictionary_encode(),
        pa.array(NAMES, pa.large_string()),
        pa.array(NAMES, pa.string_view()),
    ],
    ids=lambda labels: str(labels.type),
)
def test_labels_that_are_names_in_another_dress(tmp_path: Path, labels: pa.Array) -> None:
    found = task(parquet(tmp_path / "x.parquet", labels))
    assert found.classes == ("circle", "square", "star")
    assert [found.classes[found.load(n)[1]] for n in range(6)] == NAMES


@pytest.mark.parametrize(
    "labels",
    [
        pa.array([n % 2 == 0 for n in range(6)]),
        pa.array([{"name": name, "id": 1} for name in NAMES]),
        pa.array([[name] for name in NAMES]),
        pa.array([b"\xff\xfe"] * 6, pa.binary()),
        pa.array([0] * 6, pa.timestamp("s")),
    ],
    ids=lambda labels: str(labels.type),
)
def test_labels_that_are_no_names(tmp_path: Path, labels: pa.Array) -> None:
    assert "the column 'label' holds" in refusal(parquet(tmp_path / "x.parquet", labels))
    text = pa.array(NAMES)
    assert "the column 'image_id' holds" in refusal(parquet(tmp_path / "y.parquet", text, image_id=labels))


def test_class_labels_of_hugging_face_have_their_names(tmp_path: Path) -> None:
    info = {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": list(KINDS), "_type": "ClassLabel"}}}}
    path = tmp_path / "x.parquet"

    def write(labels: list[int]) -> None:
        table = pa.table({"image": pa.array([png()] * len(labels), pa.binary()), "label": pa.array(labels, pa.int64())})
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(info)}), path)

    write([2, 0, 1])
    found = task(path)
    assert [found.classes[found.load(n)[1]] for n in range(3)] == ["square", "star", "circle"]
    write([2, 0, 3])
    assert "the label 3 of 'label' has no name" in refusal(path)
    write([2, -1, 1])
    assert "'x/1' has no label" in refusal(path)


# Names of other bytes


def test_class_folders_of_other_bytes_stay_apart(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"\xec\xee\xe5")
    for label, name in enumerate(("звез", "круг", "куб")):
        put(root / os.fsdecode(name.encode("cp1251")) / os.fsdecode(b"\xea.png"), label)
    found = task(root)
    assert found.classes == (r"\xe7\xe2\xe5\xe7", r"\xea\xf0\xf3\xe3", r"\xea\xf3\xe1")
    assert [int(np.asarray(found.load(n)[0])[0, 0, 0]) for n in range(3)] == [0, 1, 2]
    assert len(set(found.image_ids)) == 3
    json.dumps([found.name, dict(found.source), *found.image_ids], ensure_ascii=False).encode()
    (tmp_path / "names.json").write_text(json.dumps(dict(zip(found.classes, KINDS, strict=True))))
    assert task(root, labels_file=tmp_path / "names.json").classes == KINDS


def test_two_folders_that_are_shown_alike_are_refused(tmp_path: Path) -> None:
    for name in (rb"\xe7", b"\xe7", b"a"):
        put(tmp_path / "x" / os.fsdecode(name) / "1.png")
    assert r"two folders are both shown as '\\xe7'" in refusal(tmp_path / "x")


# Links, empty classes, formats that are not read


@pytest.fixture
def links(tmp_path: Path) -> Path:
    root, store = classes(tmp_path / "links", ("star", "circle")), tmp_path / "store"
    for n in range(3):
        put(store / f"{n}.png", 100 + n)
    for name in ("square", "triangle", "heart"):
        (root / name).mkdir()
    (root / "heart" / "IMG_0001.HEIX").write_bytes(b"x")
    for link, target in {
        "square/0.png": "/nowhere/a.png", "star/2.png": "/nowhere/b.png", "circle/more": store, "linked": store,
        "star/loop": root, "gone": "/nowhere",
    }.items():  # fmt: skip
        (root / link).symlink_to(target)
    return root


def test_a_class_without_an_image_does_not_vanish(links: Path) -> None:
    text = refusal(links)
    assert "no image in the class folders gone, heart, square, triangle;" in text
    assert "--allow-empty" in text
    assert "1 .heix" in text
    assert "gone, square/0.png, star/2.png" in text
    found = task(links, allow_empty=True)
    assert found.classes == ("circle", "gone", "heart", "linked", "square", "star", "triangle")
    assert sorted(found.image_ids) == [
        "circle/0.png", "circle/1.png", "circle/more/0.png", "circle/more/1.png", "circle/more/2.png",
        "linked/0.png", "linked/1.png", "linked/2.png", "star/0.png", "star/1.png",
    ]  # fmt: skip
    assert any("classes without an image: gone, heart, square, triangle" in note for note in found.notes)
    assert any("1 that link to a folder above themselves: star/loop" in note for note in found.notes)


def test_with_a_labels_file_the_file_says_which_classes_there_are(links: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("circle\nlinked\nstar\nsquare\n")
    assert task(links, labels_file=tmp_path / "labels.txt").classes == ("circle", "linked", "star", "square")


def test_images_beside_the_class_folders_are_counted(tmp_path: Path) -> None:
    put(classes(tmp_path / "x") / "cover.png")
    assert task(tmp_path / "x").notes == (f"{tmp_path / 'x'}: skipped 1 image outside the class folders.",)


# Parts and domains


@pytest.mark.parametrize("names", [("Training", "Testing"), ("Train", "Test", "Valid"), ("train", "test", "extra"), ("TRAIN",)])
def test_parts_are_no_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        classes(tmp_path / "parts" / name, ("star", "circle"))
    assert "are parts of a data set and no classes; give one of them" in refusal(tmp_path / "parts")
    (one,) = custom_tasks(tmp_path / "parts", template="a {}.", split=names[0])
    assert one.classes == ("circle", "star")
    assert len(one.image_ids) == 4
    assert one.name == f"parts-{names[0]}"


def test_domains_are_no_classes(tmp_path: Path) -> None:
    root = tmp_path / "pacs"
    for domain in ("photo", "sketch", "cartoon"):
        classes(root / domain)
    assert "cartoon, photo, sketch hold the same folders (circle, square, star)" in refusal(root)
    (one,) = custom_tasks(root, template="a {}.", domain="sketch")
    assert (one.name, one.classes) == ("pacs-sketch", ("circle", "square", "star"))
    tasks = custom_tasks(root, template="a {}.", domain="all", limit=3)
    assert [(t.name, len(t.image_ids)) for t in tasks] == [("pacs-cartoon", 3), ("pacs-photo", 3), ("pacs-sketch", 3)]
    with pytest.raises(UserError, match="no folder 'painting' in it; there are cartoon, photo, sketch"):
        custom_tasks(root, template="a {}.", domain="painting")
    for choice in (Choice(data=root, domain="all"), Choice(data=root, split="photo")):
        assert len(choose_tasks(choice)) in (1, 3)
    with pytest.raises(UserError, match="belong to your own images"):
        choose_tasks(Choice(domain="all"))


def test_a_split_below_a_domain_and_the_other_way_round(tmp_path: Path) -> None:
    for domain in ("real", "clipart"):
        for part in ("train", "test"):
            classes(tmp_path / "a" / domain / part)
            classes(tmp_path / "b" / part / domain)
    for name in ("a", "b"):
        tasks = custom_tasks(tmp_path / name, template="a {}.", split="test", domain="all")
        assert [t.classes for t in tasks] == [("circle", "square", "star")] * 2
        assert len({t.name for t in tasks}) == 2


def test_classes_may_have_folders_of_their_own(tmp_path: Path) -> None:
    for kind in KINDS:
        put(tmp_path / "a" / kind / "train" / "1.png")  # every class has both parts
        put(tmp_path / "a" / kind / "test" / "2.png")
        put(tmp_path / "b" / kind / "images" / "1.png")  # as Tiny-ImageNet
        put(tmp_path / "c" / kind / f"{kind}-1" / "1.png")
        put(tmp_path / "c" / kind / f"{kind}-2" / "1.png")
    assert [task(tmp_path / name).classes for name in "abc"] == [("circle", "square", "star")] * 3


# WordNet ids


def test_wordnet_ids_of_imagenet_get_their_names(tmp_path: Path) -> None:
    root = classes(tmp_path / "mini", ("n01440764", "n02123045"))
    found = task(root)
    assert found.classes == ("tench", "tabby cat")
    assert found.image_ids[0] == "n01440764/0.png"
    assert found.source["labels"] == ["n01440764", "n02123045"]
    put(root / "n00000001" / "0.png")
    assert "n00000001 is a WordNet id, but none of ImageNet's 1,000 classes" in refusal(root)
    (tmp_path / "names.json").write_text('{"n00000001": "thing", "n01440764": "tench", "n02123045": "cat"}')
    assert task(root, labels_file=tmp_path / "names.json").classes == ("thing", "tench", "cat")


def test_names_that_repeat_in_openais_list_are_allowed(tmp_path: Path) -> None:
    twice = [key for key, name in imagenet_names().items() if name == "missile"]
    root = classes(tmp_path / "mini", (*twice, "n01440764"))
    assert task(root).repeated_names
    names = tmp_path / "names.json"
    names.write_text(json.dumps({key: imagenet_names()[key] for key in (*twice, "n01440764")}))
    assert task(root, labels_file=names).repeated_names
    names.write_text(json.dumps({twice[0]: "cat", twice[1]: "cat", "n01440764": "tench"}))
    assert not task(root, labels_file=names).repeated_names


def test_openais_names_one_per_line(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\n".join(imagenet_names().values()))
    found = read_labels(path)
    assert list(found.values()) == list(imagenet_names().values())
    assert [label for label, name in found.items() if label != name] == ["missile (2)", "sunglasses (2)"]
    assert class_names(found) == tuple(imagenet_names().values())
    root = classes(tmp_path / "mini", ("missile", "tench"))
    path.write_text("missile\nmissile\ntench\n")
    assert task(root, labels_file=path).repeated_names
    for text, twice in (("missile\nmissile\nspoon of mine\n", "missile"), ("tench\ntench\nmissile\n", "tench"),
                        ("missile\nmissile\nmissile\n", "missile")):  # fmt: skip
        path.write_text(text)
        assert f"{twice!r} occurs more than once" in refusal(root, labels_file=path)


def test_repeated_names_are_numbered_and_none_is_lost() -> None:
    assert number_repeated(["a", "b", "a"]) == {"a": "a", "b": "b", "a (2)": "a"}
    assert number_repeated(["a", "a", "a (2)", "a"]) == {"a": "a", "a (2)": "a", "a (2) (2)": "a (2)", "a (3)": "a"}


# Labels files


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"cat": "house cat", "cat": "tiger"}', "'cat' occurs more than once"),
        ("a.txt", b"# my classes\ncat\ndog\n", "'# my classes' would be a class; a labels file holds no comments"),
        ("a.txt", b"cat\nd\xff\xfeog\n", "it is not UTF-8 text"),
        ("a.txt", "cat\ndog\n".encode("utf-16-le"), "it holds zero bytes"),
        ("a.json", b"[" * 100_000, "not a readable labels file"),
        ("x" * 300, None, "File name too long"),
        ("sub", None, "a folder and no labels file"),
    ],
)
def test_labels_files_that_are_none(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    (tmp_path / "sub").mkdir()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_labels(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_labels_files_of_windows(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes("кот\r\nпёс\r\n".encode(encoding))
    assert read_labels(tmp_path / "a.txt") == {"кот": "кот", "пёс": "пёс"}


def test_a_pipe_is_a_labels_file() -> None:
    """As --labels-file <(…) gives it."""
    out, into = os.pipe()
    os.write(into, b"cat\ndog\n")
    os.close(into)
    try:
        assert list(read_labels(Path(f"/dev/fd/{out}"))) == ["cat", "dog"]
    finally:
        os.close(out)


def test_over_long_names_and_tables_that_are_none(tmp_path: Path) -> None:
    assert "File name too long" in refusal(Path("x" * 5000))
    for content in (b"", b"\0\0", b"path,label\n\xff\xfe,a\n", b'path,label\n"a'):
        (tmp_path / "a.csv").write_bytes(content)
        assert "a.csv" in refusal(tmp_path / "a.csv")
    pd.DataFrame([["a", "b", "c"]], columns=["path", "label", "label"]).to_csv(tmp_path / "b.csv", index=False)
    refusal(tmp_path / "c.csv")


def mutations(content: bytes, count: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    changed = []
    for _ in range(count):
        data = bytearray(content)
        low, high = (32, 127) if rng.random() < 0.5 else (0, 256)  # half of them stay text
        for _ in range(int(rng.integers(1, 6))):
            data[int(rng.integers(len(data)))] = int(rng.integers(low, high))
        changed.append(bytes(data[: int(rng.integers(1, len(data) + 1))]) if rng.random() < 0.3 else bytes(data))
    return changed


def _labels_of(path: Path) -> object:
    found = read_labels(path)
    text = path.read_bytes().decode("utf-8-sig")
    plain = json.loads(text) if path.suffix == ".json" else {name.strip(): name.strip() for name in text.splitlines()}
    assert found == {k: v[0] if isinstance(v, list) else v for k, v in plain.items() if k or path.suffix == ".json"}
    return found


def _rows_of(path: Path) -> object:
    found = custom_task(path, template="{}")
    labels = []
    for n in range(len(found.image_ids)):
        try:
            labels.append(found.classes[found.load(n)[1]])
        except UserError:
            labels.append(None)
    if path.suffix == ".parquet":
        expected = [str(v).replace("_", " ") for v in pq.read_table(path)["label"].to_pylist()]
    elif '"' in (text := path.read_bytes().decode("utf-8-sig")):
        return found
    else:
        lines = [line.split(",") for line in re.split(r"\r\n|\r|\n", text) if line]
        expected = [row[lines[0].index("label")].replace("_", " ") for row in lines[1:]]
        assert list(found.image_ids) == [row[lines[0].index("path")] for row in lines[1:]]
    assert len(labels) == len(expected)
    assert all(label in (None, right) for label, right in zip(labels, expected, strict=True))
    return found


@pytest.mark.parametrize("kind", ["labels.json", "labels.txt", "x.csv", "x.parquet"])
def test_mutated_files_give_an_answer_or_a_sentence(tmp_path: Path, kind: str) -> None:
    """What is read is what another reader finds in the same bytes: no class is changed."""
    path = tmp_path / kind
    read: Callable[[Path], object] = _labels_of if kind.startswith("labels") else _rows_of
    for name in KINDS:
        put(tmp_path / name / "0.png")
    if kind == "x.parquet":
        parquet(path, pa.array(NAMES))
    else:
        text = {"labels.json": json.dumps({k: [k, "x"] for k in KINDS}), "labels.txt": "\n".join(KINDS)}
        path.write_text(text.get(kind, "path,label\n" + "\n".join(f"{k}/0.png,{k}" for k in KINDS)))
    refusals: list[str] = []
    for content in mutations(path.read_bytes(), 200):
        path.write_bytes(content)
        try:
            read(path)
        except UserError as error:
            refusals.append(str(error))
    assert 5 < len(refusals) < 195
    assert not any("\n" in text for text in refusals)


@pytest.mark.parametrize(
    "rows",
    ["path,label\n{0},star,\n{1},circle,\n", "path,label\n{0}\n{1},circle\n", "path,label,x\n{0},star,1\n{1},circle\n",
     'path,label\n"{0}"x,star\n{1},circle\n', "path,label\n{0},sta\0r\n{1},circle\n"],
)  # fmt: skip
def test_rows_of_a_csv_that_do_not_fit_its_header(tmp_path: Path, rows: str) -> None:
    """A comma at the end of every line makes some readers take the first column for an index, and move the others."""
    for name in ("star", "circle"):
        put(tmp_path / name / "0.png")
    (tmp_path / "x.csv").write_text(rows.format("star/0.png", "circle/0.png"))
    text = refusal(tmp_path / "x.csv")
    assert re.search(r"line 2 |line 3 |not a readable CSV file", text)
