"""Copies as people have them: incomplete, unpacked from another archive, or named by the folder of the images itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from grpo_tta.backbones.base import Backbone
from grpo_tta.data.public import load
from grpo_tta.data.public.catalogue import BENCHMARKS, FAMILIES, FIFTEEN
from grpo_tta.data.public.check import check_benchmark
from grpo_tta.data.public.imagenet import class_names, subset_ids
from grpo_tta.data.public.load import benchmark_tasks, list_benchmark, to_task
from grpo_tta.data.public.sets.eurosat import _NAMES
from grpo_tta.errors import UserError
from tests.benchmark_trees import SPLITS, Tree, label_of, plant


def test_eurosats_present_archive_is_found(tmp_path: Path) -> None:
    for place in ("eurosat/EuroSAT_RGB", "EuroSAT_RGB"):
        tree = plant("eurosat", tmp_path / place.replace("/", "-"))
        (tree.root / place).parent.mkdir(exist_ok=True)
        (tree.root / "eurosat" / "2750").rename(tree.root / place)
        found = check_benchmark(tree.benchmark, tree.root)
        assert (found.problems, found.decoded) == ((), 6)
        assert Path(found.where or "") == tree.root / place


@pytest.mark.parametrize("name", [*SPLITS, "fgvc-aircraft"])
def test_the_root_may_be_the_folder_of_the_images(name: str, tmp_path: Path) -> None:
    tree = plant(name, tmp_path / "deep" / "er")
    root = tree.root / (SPLITS[name][0] if name in SPLITS else "fgvc_aircraft/images")
    found = check_benchmark(tree.benchmark, root)
    assert (found.problems, found.decoded) == ((), 6)


@pytest.fixture
def incomplete(tmp_path: Path) -> Tree:
    tree = plant("dtd", tmp_path / "my data")
    for path in tree.images[:4]:
        path.unlink()
    return tree


def test_the_refusal_counts_files_and_quotes_a_command_that_works(incomplete: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "BENCHMARKS", {"dtd": incomplete.benchmark})
    with pytest.raises(UserError) as caught:
        benchmark_tasks(["dtd"], incomplete.root)
    text = str(caught.value)
    assert "_0003.jpg is missing (and 3 more); put that right, or run what is there with --allow-missing." in text
    assert f"'grpo-tta datasets check dtd --root '{incomplete.root}'' lists everything" in text
    tree = plant("imagenet-r", incomplete.root)
    for path in tree.images[:10]:
        path.unlink()
    with pytest.raises(UserError, match=r"\(and 10 more\)"):  # ten folders without an image, and their number
        to_task(tree.benchmark, list_benchmark(tree.benchmark, tree.root, "reporting"))
    assert FAMILIES["imagenet-c"].cell("fog", 3).check_words == "imagenet-c --corruptions fog --severities 3"


def test_check_counts_what_it_opened(incomplete: Tree) -> None:
    incomplete.images[5].write_bytes(b"no image")
    found = check_benchmark(incomplete.benchmark, incomplete.root)
    assert (found.images, found.decoded) == (6, 1)
    assert len(found.problems) == 5


def test_an_incomplete_copy_runs_where_that_is_allowed(incomplete: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "BENCHMARKS", {"dtd": incomplete.benchmark})
    (task,) = benchmark_tasks(["dtd"], incomplete.root, allow_missing=True, limit=1)
    assert (task.name, len(task.image_ids), len(task.classes)) == ("dtd-incomplete", 1, 3)
    image, label = task.load(0)
    assert label_of(image) == label
    assert "an incomplete copy with 2 images of 6" in task.notes[0]
    assert task.source["allow_missing"] is True
    (whole,) = benchmark_tasks(["dtd"], plant("dtd", incomplete.root / "whole").root, allow_missing=True)
    assert (whole.name, whole.notes) == ("dtd", ())


def test_what_is_wrong_is_not_allowed(incomplete: Tree) -> None:
    wrong = replace(incomplete.benchmark, classes=4)
    listing = list_benchmark(wrong, incomplete.root, "reporting")
    with pytest.raises(UserError, match=r"3 classes in .* instead of 4; put that right\. "):
        to_task(wrong, listing, allow_missing=True)
    for path in incomplete.images[4:]:
        path.unlink()
    with pytest.raises(UserError, match="were not found"):
        list_benchmark(incomplete.benchmark, incomplete.root, "reporting")


@pytest.mark.parametrize("name", ["imagenet", "imagenet-v2"])
def test_a_few_of_imagenets_classes(name: str, tmp_path: Path) -> None:
    tree = plant(name, tmp_path)
    for path in tree.images[10:]:
        shutil.rmtree(path.parent)
    listing = list_benchmark(tree.benchmark, tree.root, "reporting")
    with pytest.raises(UserError, match="with --allow-missing"):
        to_task(tree.benchmark, listing)
    task = to_task(tree.benchmark, listing, allow_missing=True)
    assert (len(task.image_ids), len(task.classes)) == (10, 1000)


def test_which_of_the_fifteen_fit_the_shipped_models(nano_backbone: Backbone, photo_length: Callable[[str], int]) -> None:
    """The class names that ship with a library; the others were measured on the longest names that are known of them."""
    names = class_names()
    known = {"imagenet": list(names.values()), "eurosat": list(_NAMES.values())}
    known |= {name: [names[key] for key in subset_ids(name)] for name in ("imagenet-a", "imagenet-r")}
    lengths: dict[str, Callable[[str], int]] = {"nano-clip": nano_backbone._length, "photo-clip": photo_length}  # type: ignore[attr-defined]
    for name, labels in known.items():
        fits = {model for model, length in lengths.items() if max(length(f"a photo of a {label}.") for label in labels) <= 24}
        assert fits == set(BENCHMARKS[name].small_models), name
    assert [b.name for b in FIFTEEN if not b.small_models] == ["imagenet", "imagenet-v2", "imagenet-sketch", "stanford-cars"]


@pytest.fixture
def photo_length() -> Callable[[str], int]:
    from grpo_tta.backbones.base import load_backbone

    return load_backbone("photo-clip")._length  # type: ignore[attr-defined, no-any-return]
