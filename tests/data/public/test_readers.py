"""The fifteen benchmarks: miniatures of the true layouts are read whole and in order; broken ones are refused by name."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from timm.data import ImageNetInfo

from grpo_tta.backbones.prompts import check_templates
from grpo_tta.data.public.catalogue import BENCHMARKS, FIFTEEN
from grpo_tta.data.public.check import check_benchmark
from grpo_tta.data.public.imagenet import class_names, ensemble_templates, subset_ids, wordnet_ids
from grpo_tta.data.public.load import benchmark_tasks, list_benchmark, to_task
from grpo_tta.data.tasks import Task
from grpo_tta.errors import UserError
from tests.benchmark_trees import WORDNET, Tree, cars_meta, label_of, plant

NAMES = [benchmark.name for benchmark in FIFTEEN]
SPLIT_NAMES = [benchmark.name for benchmark in FIFTEEN if benchmark.split_file]


def task_of(tree: Tree) -> Task:
    return to_task(tree.benchmark, list_benchmark(tree.benchmark, tree.root, "reporting"))


def problems(tree: Tree) -> str:
    """What `check` says; `bench` must refuse the same, unless it is about the inside of images."""
    return "\n".join(check_benchmark(tree.benchmark, tree.root).problems)


def refused(tree: Tree) -> str:
    with pytest.raises(UserError) as caught:
        task_of(tree)
    return str(caught.value)


def edit_split(tree: Tree, old: str, new: str) -> None:
    assert tree.split is not None
    text = tree.split.read_text()
    assert old in text
    tree.split.write_text(text.replace(old, new))


@pytest.mark.parametrize("layout", ["coop", "tpt"])
@pytest.mark.parametrize("name", NAMES)
def test_read_whole_and_in_order(name: str, layout: str, tmp_path: Path) -> None:
    tree = plant(name, tmp_path, layout)
    found = check_benchmark(tree.benchmark, tree.root)
    assert found.problems == ()
    assert found.decoded == found.images == len(tree.images) == tree.benchmark.images
    task = task_of(tree)
    read = [task.load(number) for number in range(len(task.image_ids))]
    assert [label for _, label in read] == [label_of(image) for image, _ in read]
    assert set(range(tree.benchmark.classes)) == {label for _, label in read}
    assert len(set(task.image_ids)) == len(read)
    if tree.classes is not None:
        assert task.classes == tree.classes
    assert len(task.classes) == tree.benchmark.classes


def test_ids_are_the_same_in_both_layouts(tmp_path: Path) -> None:
    for name in NAMES:
        one, two = (task_of(plant(name, tmp_path / layout, layout)) for layout in ("coop", "tpt"))
        assert one.image_ids == two.image_ids


@pytest.mark.parametrize("name", NAMES)
def test_a_name_with_sh_is_not_dropped(name: str, tmp_path: Path) -> None:
    tree = plant(name, tmp_path)
    old = tree.images[0]
    new = old.with_name("Fresh_" + old.name)
    old.rename(new)
    if name == "fgvc-aircraft":
        edit_split(tree, old.stem, new.stem)
    elif tree.split is not None:
        content = json.loads(tree.split.read_text())
        content["test"][0][0] = str(Path(content["test"][0][0]).with_name(new.name))
        if name == "oxford-pets":  # the name of the file is the name of the class
            for row in (row for rows in content.values() for row in rows if row[1] == 0):
                path = Path(row[0])
                row[0], row[2] = f"Fresh_Abyssinian_{path.stem[-1]}.jpg", "fresh_abyssinian"
                (old.parent / path).rename(old.parent / row[0])
        tree.split.write_text(json.dumps(content))
    tree = replace(tree, benchmark=replace(tree.benchmark, file_name=None))
    task = task_of(tree)
    assert len(task.image_ids) == tree.benchmark.images
    assert sum(new.name in image_id for image_id in task.image_ids) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    tree = plant(name, tmp_path)
    gone = tree.images[1]
    gone.unlink()
    if name in ("imagenet-a", "imagenet-r", "imagenet-sketch", "imagenet-v2"):
        # these publish no file list: the class is named where it is empty, and the total always
        assert f"{gone.parent.name} (" in problems(tree)
        assert f"{len(tree.images) - 1} images instead of {len(tree.images)}" in problems(tree)
    else:
        assert gone.name.removesuffix(".JPEG") in problems(tree)
        assert "is missing" in problems(tree)
    assert problems(tree).splitlines()[0] in refused(tree)


@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_image_is_named(name: str, tmp_path: Path) -> None:
    tree = plant(name, tmp_path)
    tree.images[2].write_bytes(tree.images[2].read_bytes()[:400])
    found = check_benchmark(tree.benchmark, tree.root)
    assert len(found.problems) == 1
    assert tree.images[2].name in found.problems[0]
    assert "truncated or damaged" in found.problems[0]
    assert check_benchmark(tree.benchmark, tree.root, decode=False).problems == ()
    task = task_of(tree)
    number = next(i for i, image_id in enumerate(task.image_ids) if image_id.endswith(tree.images[2].name))
    if name in SPLIT_NAMES:  # names of files repeat in every class
        number = 2
    with pytest.raises(UserError, match="truncated or damaged"):
        task.load(number)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_count_is_named(name: str, tmp_path: Path) -> None:
    tree = plant(name, tmp_path)
    count = tree.benchmark.images
    if name in WORDNET:
        (tree.images[0].with_name("more.jpg")).write_bytes(tree.images[0].read_bytes())
        count += 1
    elif name == "fgvc-aircraft" and tree.split is not None:
        tree.split.write_text("".join(tree.split.read_text().splitlines(keepends=True)[:-1]))
        count -= 1
    elif tree.split is not None:
        content = json.loads(tree.split.read_text())
        content["test"].pop()
        tree.split.write_text(json.dumps(content))
        count -= 1
    assert f"{count} images" in problems(tree)
    assert f"instead of {tree.benchmark.images}" in problems(tree)
    assert problems(tree).splitlines()[0] in refused(tree)


@pytest.mark.parametrize("name", NAMES)
def test_a_renamed_class_is_named(name: str, tmp_path: Path) -> None:
    tree = plant(name, tmp_path)
    folder = tree.images[1].parent
    if name in WORDNET:
        folder.rename(folder.with_name("renamed"))
        assert "the folder renamed is no class of" in problems(tree)
        key = wordnet_ids()[1] if name == "imagenet-v2" else folder.name
        assert f"the class folder {key} ({class_names()[key]}) is missing" in problems(tree)
    elif name == "stanford-cars":
        cars_meta(folder.parent, ["AM General Hummer SUV 2000", "Acura RX Sedan 2012", "Dodge Shelby 2007"])
        assert "class 1 is called '2012 Acura RL Sedan'" in problems(tree)
    elif name == "flowers102":
        edit_split(tree, "colt's foot", "colts foot")
        assert "class 1 is called 'colts foot' in split_zhou_OxfordFlowers.json and \"colt's foot\" in" in problems(tree)
    elif name == "fgvc-aircraft" and tree.split is not None:
        variants = tree.split.with_name("variants.txt")
        variants.write_text(variants.read_text().replace("A300B4", "A310"))
        assert "the class 'A300B4' of images_variant_test.txt is not in variants.txt" in problems(tree)
        assert "the class 'A310' of variants.txt has no image" in problems(tree)
    else:  # consistently in all rows: only the disk can tell
        content = json.loads(tree.split.read_text())  # type: ignore[union-attr]
        old = content["test"][1][2]
        rows = {part: [(p, c, "impostor" if n == old else n) for p, c, n in rows] for part, rows in content.items()}
        tree.split.write_text(json.dumps(rows))  # type: ignore[union-attr]
        assert f"the class 'impostor' of {tree.benchmark.split_file} is called {old!r} on disk" in problems(tree)
    assert problems(tree).splitlines()[0] in refused(tree)


@pytest.mark.parametrize("name", SPLIT_NAMES)
def test_split_files_must_make_sense(name: str, tmp_path: Path) -> None:
    tree = plant(name, tmp_path)
    assert tree.split is not None
    whole = json.loads(tree.split.read_text())

    def write(part: str, row: int, **change: object) -> None:
        content = json.loads(json.dumps(whole))
        path, label, class_name = content[part][row]
        content[part][row] = [change.get("path", path), change.get("label", label), change.get("name", class_name)]
        tree.split.write_text(json.dumps(content))  # type: ignore[union-attr]

    write("test", 0, name="another")
    assert "label 0 is called both" in problems(tree)
    write("test", 0, label=1)  # two classes swapped in one row
    assert "label 1 is called both" in problems(tree)
    write("test", 0, path=whole["train"][0][0])
    assert f"the image {whole['train'][0][0]} is in more than one part of the split" in problems(tree)
    write("test", 0, path=whole["test"][3][0])
    assert "listed more than once" in problems(tree)
    write("train", 0, path="../elsewhere.jpg")
    assert "leaves the data set" in problems(tree)
    tree.split.write_text("{}")
    assert "not one of CoOp's split files" in problems(tree)
    tree.split.unlink()
    assert f"{tree.benchmark.split_file} is missing beside" in refused(tree)
    assert ("--official-split" in refused(tree)) == (tree.benchmark.official is not None)


def test_the_tuning_part_is_val(tmp_path: Path) -> None:
    for name in [*SPLIT_NAMES, "fgvc-aircraft"]:
        tree = plant(name, tmp_path / name)
        assert check_benchmark(tree.benchmark, tree.root, "tuning").problems == ()
        listing = list_benchmark(tree.benchmark, tree.root, "tuning")
        assert len(listing.ids) == 3
        assert not set(listing.ids) & set(list_benchmark(tree.benchmark, tree.root, "reporting").ids)
    tree = plant("imagenet-a", tmp_path / "a")
    with pytest.raises(UserError, match="ImageNet-A is a test set only"):
        list_benchmark(tree.benchmark, tree.root, "tuning")


def test_numbered_folders_of_v2_are_sorted_as_numbers(tmp_path: Path) -> None:
    tree = plant("imagenet-v2", tmp_path)
    task = task_of(tree)
    # as text, "10" comes before "2"
    place = task.image_ids.index(next(i for i in task.image_ids if i.startswith(wordnet_ids()[10] + "/")))
    assert task.load(place)[1] == 10
    assert label_of(task.load(place)[0]) == 10
    folder = tree.images[0].parent.parent
    (folder / "7").rename(folder / "1007")
    assert "the folder 1007 is no class of" in problems(tree)
    (folder / "1007").rename(folder / wordnet_ids()[8])  # numbers and ids mixed: class 8 twice, class 7 never
    assert "names a class that another folder names too" in problems(tree)
    assert f"{wordnet_ids()[7]} ({class_names()[wordnet_ids()[7]]}) is missing" in problems(tree)


def test_subsets_are_found_by_wordnet_id_and_not_by_each_other(tmp_path: Path) -> None:
    adversarial = plant("imagenet-a", tmp_path)
    folder = adversarial.images[0].parent.parent
    folder.rename(tmp_path / "imagenet-r")
    rendition = replace(BENCHMARKS["imagenet-r"], images=200)
    assert "is no class of ImageNet-R" in "\n".join(check_benchmark(rendition, tmp_path).problems)
    task = to_task(adversarial.benchmark, list_benchmark(adversarial.benchmark, tmp_path / "imagenet-r", "reporting"))
    # two classes of ImageNet-A that everyone can look up
    assert task.classes[0] == "stingray"
    assert task.classes[subset_ids("imagenet-a").index("n02007558")] == "flamingo"


def test_names_belong_to_their_wordnet_ids() -> None:
    """open_clip's names and timm's ids come from two sources; nearly every name must share a word with WordNet's lemmas."""
    info = ImageNetInfo("imagenet-1k")
    known = {"n01440764": "tench", "n02504458": "African bush elephant", "n15075141": "toilet paper", "n02012849": "crane bird"}
    assert {key: class_names()[key] for key in known} == known
    lemmas = [info.index_to_description(label).lower() for label in range(1000)]
    names = list(class_names().values())

    def agree(shift: int) -> int:
        pairs = zip(names, lemmas[shift:] + lemmas[:shift], strict=True)
        return sum(any(word in lemma for word in name.lower().split()) for name, lemma in pairs)

    assert agree(0) > 940
    assert agree(1) < 300  # had they been off by one
    assert len(set(names)) == 998  # missile and sunglasses occur twice
    assert len(set(ensemble_templates())) == 80
    assert check_templates(ensemble_templates())
    for benchmark in FIFTEEN:
        assert check_templates(benchmark.own_template)


def test_templates_and_limit(tmp_path: Path) -> None:
    tree = plant("dtd", tmp_path)
    listing = list_benchmark(tree.benchmark, tree.root, "reporting")
    assert to_task(tree.benchmark, listing).template == "a photo of a {}."
    assert to_task(tree.benchmark, listing, template="coop").template == "{} texture."
    assert to_task(tree.benchmark, listing, template="my {}").template == "my {}"
    some = to_task(tree.benchmark, listing, limit=2)
    assert list(some.image_ids) == [listing.ids[0], listing.ids[3]]
    assert some.load(1)[1] == listing.labels[3]


def test_nothing_there(tmp_path: Path) -> None:
    for name in NAMES:
        (found,) = check_benchmark(BENCHMARKS[name], tmp_path).problems
        assert BENCHMARKS[name].title in found
        assert "grpo-tta datasets check" in found
    with pytest.raises(UserError, match="no such folder"):
        benchmark_tasks(["dtd"], tmp_path / "nowhere")
    with pytest.raises(UserError, match="Unknown data set 'x'; choose from fifteen, imagenet"):
        benchmark_tasks(["x"], tmp_path)


def test_nothing_is_fetched_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(*address: object) -> NoReturn:
        asked.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    for name in NAMES:
        with pytest.raises(UserError):
            benchmark_tasks([name], tmp_path)
        with pytest.raises(UserError):
            benchmark_tasks([name], tmp_path, official=True)
    assert not asked
    with pytest.raises(UserError, match=r"could not be downloaded \(.*no network in this test.*by hand: EuroSAT_RGB.zip"):
        benchmark_tasks(["eurosat"], tmp_path, download=True)
    assert asked
    asked.clear()
    with pytest.raises(UserError, match="were not found"):  # torchvision cannot fetch these
        benchmark_tasks(["imagenet-a"], tmp_path, download=True)
    assert not asked


def test_a_damaged_list_of_classes_is_named(tmp_path: Path) -> None:
    for name, file in (("flowers102", "cat_to_name.json"), ("stanford-cars", "devkit/cars_meta.mat")):
        tree = plant(name, tmp_path / name)
        assert tree.split is not None
        (tree.split.parent / file).write_bytes(b"{")
        assert f"{Path(file).name}: truncated or damaged" in problems(tree)
