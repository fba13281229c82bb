"""The fifteen corruptions: strength, seeding, and the published corrupted sets."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial
from hashlib import md5
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torchvision
from PIL import Image

from grpo_tta.data.public.catalogue import FAMILIES
from grpo_tta.data.public.check import check_benchmark
from grpo_tta.data.public.cifar import read_cifar_c
from grpo_tta.data.public.corrupted import CORRUPTIONS, SEVERITIES, centre_crop, corrupt, corrupted_tasks
from grpo_tta.data.public.load import benchmark_tasks, cells, corruptions_named
from grpo_tta.data.public.sets.cifar10 import CIFAR10
from grpo_tta.data.public.sets.cifar100 import CIFAR100
from grpo_tta.data.public.spec import Benchmark
from grpo_tta.data.tasks import Task
from grpo_tta.errors import UserError
from tests.benchmark_trees import WORDNET, label_of, put, wordnet_ids

RANDOM = {
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "glass_blur",
    "motion_blur",
    "snow",
    "frost",
    "fog",
    "elastic_transform",
}


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """224 x 224, smooth with edges, neither dark nor bright: what the severities are meant for."""
    rng = np.random.default_rng(3)
    small = Image.fromarray(rng.integers(40, 200, (14, 14, 3), dtype=np.uint8))
    return small.resize((224, 224), Image.Resampling.BICUBIC)


def test_the_fifteen_are_those_of_the_library() -> None:
    from imagecorruptions import get_corruption_names

    assert list(CORRUPTIONS) == get_corruption_names()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_severity_is_seeded_by_the_image_alone(name: str, photo: Image.Image) -> None:
    np.random.seed(5)
    before = np.random.get_state()
    made = [corrupt(photo, name, severity, "a") for severity in SEVERITIES]
    assert all(
        (one == two).all() if hasattr(one, "all") else one == two
        for one, two in zip(before, np.random.get_state(), strict=True)
    )
    np.random.seed(6)  # of no effect
    assert corrupt(photo, name, 3, "a").tobytes() == made[2].tobytes()
    assert (corrupt(photo, name, 3, "b").tobytes() != made[2].tobytes()) == (name in RANDOM)
    assert {image.size for image in made} == {(224, 224)}
    assert {image.mode for image in made} == {"RGB"}
    change, likeness = zip(*(compare(photo, image) for image in made), strict=True)
    assert change[0] > 0.3
    assert change[4] > 1.1 * change[0] or likeness[4] < likeness[0] - 0.1  # frost and fog differ in their random layer, too


def compare(one: Image.Image, two: Image.Image) -> tuple[float, float]:
    """Mean difference of the pixels, and their correlation."""
    a, b = np.asarray(one, float).ravel(), np.asarray(two, float).ravel()
    return float(np.abs(a - b).mean()), float(np.corrcoef(a, b)[0, 1])


def test_small_images_and_wrong_names() -> None:
    small = Image.new("RGB", (32, 40), (90, 120, 30))
    for name in CORRUPTIONS:
        assert corrupt(small, name, 5, "a").size == (32, 40)
    with pytest.raises(UserError, match="31 x 40 pixels are too few"):
        corrupt(Image.new("RGB", (31, 40)), "fog", 1, "a")
    with pytest.raises(UserError, match="Unknown corruption 'rain'; choose from all, gaussian_noise"):
        corruptions_named(["rain"], ["1"])
    with pytest.raises(UserError, match="Severity 6 does not exist"):
        corruptions_named(["fog"], ["6"])
    with pytest.raises(UserError, match="Severity 'x' does not exist"):
        corruptions_named(["fog"], ["x"])
    assert corruptions_named(["all"], ["1", "5", "1"]) == (CORRUPTIONS, (1, 5))


def test_cut_is_that_of_imagenet_c() -> None:
    wide = Image.new("RGB", (1000, 500))
    wide.paste((255, 255, 255), (500, 0, 1000, 500))
    assert centre_crop(wide).size == (224, 224)
    half = np.asarray(centre_crop(wide), float).mean((0, 2))
    assert half[:110].max() < 8  # the centre stays the centre
    assert half[114:].min() > 247
    assert centre_crop(Image.new("RGB", (300, 223))).size == (300, 223)


def test_tasks_are_corrupted_on_the_fly() -> None:
    images = [Image.new("RGB", (40, 40), (60 * n, 90, 120)) for n in range(3)]
    task = Task("mine", "real", ("a", "b"), "{}", ("{}",), ["x", "y", "z"], lambda n: (images[n], n % 2))
    fog, noise = corrupted_tasks([task], ["fog", "gaussian_noise"], [2])
    assert (fog.name, noise.name, fog.kind) == ("mine-fog-2", "mine-gaussian_noise-2", "shifted")
    assert fog.load(1)[1] == 1
    assert fog.load(1)[0].tobytes() == fog.load(1)[0].tobytes() != images[1].tobytes()

    def elsewhere(keyed_by: Literal["id", "pixels"]) -> bytes:
        moved = replace(task, image_ids=["p", "q", "r"], keyed_by=keyed_by)
        return corrupted_tasks([moved], ["fog"], [2])[0].load(1)[0].tobytes()

    assert elsewhere("id") != fog.load(1)[0].tobytes()
    (by_pixels,) = corrupted_tasks([replace(task, keyed_by="pixels")], ["fog"], [2])
    assert elsewhere("pixels") == by_pixels.load(1)[0].tobytes()  # wherever the image lies


def test_imagenet_c_is_read_in_order(tmp_path: Path) -> None:
    (cell,) = cells("imagenet-c", ["fog"], [3])
    cell = replace(cell, images=1000, per_class=1)
    plain, grouped = tmp_path / "ImageNet-C/fog", tmp_path / "ImageNet-C/weather/fog"
    for label, key in enumerate(wordnet_ids()):
        put(plain / "3" / key / WORDNET["imagenet"][2].format(label + 1), label)
    assert check_benchmark(cell, tmp_path).problems == ()
    listing = cell.read(cell, tmp_path, "reporting")
    assert all(label_of(listing.read(n)) == label for n, label in enumerate(listing.labels))
    grouped.parent.mkdir()
    plain.rename(grouped)
    assert check_benchmark(cell, tmp_path, decode=False).problems == ()
    assert len(cells("imagenet-c", (), SEVERITIES)) == 75
    # a folder of clean images is never taken for a corrupted one
    (problem,) = check_benchmark(cell, grouped / "3").problems
    assert "were not found" in problem


def small_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch, coarse: bool) -> Benchmark:
    """Four images in CIFAR's own files; torchvision's checksums are those of the real ones, so they are set."""
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
    if coarse:
        dataset, base, names = "CIFAR100", "cifar-100-python", [f"thing_{i}" for i in range(4)]
        files = {"test": {"data": data, "fine_labels": [2, 0, 1, 3]}, "meta": {"fine_label_names": names}}
    else:
        dataset, base, names = "CIFAR10", "cifar-10-batches-py", ["airplane", "automobile", "bird", "cat"]
        files = {"test_batch": {"data": data, "labels": [2, 0, 1, 3]}, "batches.meta": {"label_names": names}}
    (folder / base).mkdir(parents=True)
    sums = {}
    for name, content in files.items():
        (folder / base / name).write_bytes(pickle.dumps(content))
        sums[name] = md5((folder / base / name).read_bytes()).hexdigest()
    (first, sum1), (second, sum2) = sums.items()
    kind = getattr(torchvision.datasets, dataset)
    monkeypatch.setattr(kind, "train_list", [])
    monkeypatch.setattr(kind, "test_list", [[first, sum1]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "filename": second, "md5": sum2})
    return replace(CIFAR100 if coarse else CIFAR10, images=4, classes=4)


@pytest.mark.parametrize("coarse", [False, True])
def test_cifar_and_its_corrupted_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coarse: bool) -> None:
    clean = small_cifar(tmp_path, monkeypatch, coarse)
    assert check_benchmark(clean, tmp_path).problems == ()
    listing = clean.read(clean, tmp_path, "reporting")
    assert listing.labels == [2, 0, 1, 3]
    assert listing.classes[2] == ("thing 2" if coarse else "bird")
    assert listing.read(1).size == (32, 32)

    name = "cifar100-c" if coarse else "cifar10-c"
    folder = tmp_path / FAMILIES[name].title
    folder.mkdir()
    images = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((20, 32, 32, 3), np.uint8)
    np.save(folder / "fog.npy", images)
    np.save(folder / "labels.npy", np.array([2, 0, 1, 3] * 5))
    (cell,) = cells(name, ["fog"], [3])
    cell = replace(cell, images=4, read=partial(read_cifar_c, clean=clean, corruption="fog", severity=3, size=4))
    assert check_benchmark(cell, tmp_path).problems == ()
    found = cell.read(cell, tmp_path, "reporting")
    assert [int(np.asarray(found.read(n))[0, 0, 0]) for n in range(4)] == [8, 9, 10, 11]
    assert found.labels == [2, 0, 1, 3]
    assert found.classes == listing.classes

    np.save(folder / "labels.npy", np.array([0, 2, 1, 3] * 5))
    assert "labels.npy does not agree with the labels of" in check_benchmark(cell, tmp_path).problems[0]
    np.save(folder / "fog.npy", images[:10])
    assert "10 images in fog.npy instead of 20" in check_benchmark(cell, tmp_path).problems
    (folder / "fog.npy").write_bytes((folder / "fog.npy").read_bytes()[:60])
    assert "fog.npy: truncated or damaged" in check_benchmark(cell, tmp_path).problems[0]
    (folder / "fog.npy").unlink()
    assert "fog.npy: no such file" in check_benchmark(cell, tmp_path).problems[0]
    (tmp_path / clean.folders[0] / ("test" if coarse else "test_batch")).write_bytes(b"damaged")
    assert "finds no whole copy" in check_benchmark(clean, tmp_path).problems[0]
    with pytest.raises(UserError, match="finds no whole copy"):
        benchmark_tasks([clean.name], tmp_path)
