"""torchvision's own test splits, read only when they are asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from grpo_tta.data.public.catalogue import BENCHMARKS
from grpo_tta.data.public.check import check_benchmark
from grpo_tta.data.public.load import benchmark_tasks, list_benchmark
from grpo_tta.data.public.spec import Benchmark
from grpo_tta.errors import UserError
from tests.benchmark_trees import aircraft_tree, label_of, put


def small(name: str, classes: int, images: int) -> Benchmark:
    real = BENCHMARKS[name]
    assert real.official is not None
    return replace(real, classes=classes, official=replace(real.official, images=images))


def dtd(root: Path) -> Benchmark:
    names = ("banded", "meshed")
    (root / "dtd/dtd/labels").mkdir(parents=True)
    files = [f"{name}/{name}_{n:04d}.jpg" for label, name in enumerate(names) for n in (1, 2)]
    for number, file in enumerate(files):
        put(root / "dtd/dtd/images" / file, number // 2)
    (root / "dtd/dtd/labels/test1.txt").write_text("\n".join(files) + "\n")
    return small("dtd", 2, 4)


def pets(root: Path) -> Benchmark:
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    lines = []
    for label, name in enumerate(("Abyssinian", "shiba_inu")):
        put(folder / "images" / f"{name}_1.jpg", label)
        lines.append(f"{name}_1 {label + 1} 1 1")
    (folder / "annotations/test.txt").write_text("\n".join(lines) + "\n")
    return small("oxford-pets", 2, 2)


def food(root: Path) -> Benchmark:
    files = {"apple_pie": ["apple_pie/1"], "sushi": ["sushi/2"]}
    (root / "food-101/meta").mkdir(parents=True)
    (root / "food-101/meta/test.json").write_text(json.dumps(files))
    for label, (name,) in enumerate(files.values()):
        put(root / f"food-101/images/{name}.jpg", label)
    return small("food101", 2, 2)


def aircraft(root: Path) -> Benchmark:
    aircraft_tree(root, "torchvision")
    return small("fgvc-aircraft", 3, 6)


@pytest.mark.parametrize("plant", [dtd, pets, food, aircraft])
def test_official_splits(plant: object, tmp_path: Path) -> None:
    benchmark = plant(tmp_path)  # type: ignore[operator]
    found = check_benchmark(benchmark, tmp_path, official=True)
    assert found.problems == ()
    assert "not the field's" in found.origin
    listing = list_benchmark(benchmark, tmp_path, "reporting", official=True)
    assert [label_of(listing.read(n)) for n in range(len(listing.ids))] == list(listing.labels)
    real = check_benchmark(BENCHMARKS[benchmark.name], tmp_path, official=True)
    assert any("images in torchvision's test split instead of" in problem for problem in real.problems)
    with pytest.raises(UserError, match="for reporting only"):
        list_benchmark(benchmark, tmp_path, "tuning", official=True)


def test_tables_do_not_confuse_the_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BENCHMARKS, "oxford-pets", pets(tmp_path))
    (task,) = benchmark_tasks(["oxford-pets"], tmp_path, official=True)
    assert task.name == "oxford-pets-official"
    assert task.classes == ("Abyssinian", "Shiba Inu")


def test_damage_is_named(tmp_path: Path) -> None:
    benchmark = pets(tmp_path)
    (tmp_path / "oxford-iiit-pet/images/shiba_inu_1.jpg").unlink()
    (problem,) = check_benchmark(benchmark, tmp_path, official=True).problems
    assert "Oxford-IIIT Pets, image 1: missing or damaged" in problem
    assert "shiba_inu_1.jpg" in problem


def test_who_has_none() -> None:
    with pytest.raises(UserError, match="torchvision has no test split of UCF101"):
        benchmark_tasks(["ucf101"], Path("/"), official=True)
