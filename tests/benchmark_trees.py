"""Miniature trees in the true layouts: real class folders and list files, one or two small images a class.

An image's colour gives the label that the builder meant, so that a test can see whether the reader agrees.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from grpo_tta.data.public.catalogue import BENCHMARKS
from grpo_tta.data.public.imagenet import subset_ids, wordnet_ids
from grpo_tta.data.public.spec import Benchmark
from grpo_tta.images.inputs import ImageLike, to_image


@cache
def drawing(label: int) -> bytes:
    colour = (label % 32 * 8 + 4, label // 32 * 8 + 4, 128)
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def label_of(image: ImageLike) -> int:
    red, green, _ = np.asarray(to_image(image))[8, 8]
    return int(red) // 8 + 32 * (int(green) // 8)


def put(path: Path, label: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(drawing(label))


@dataclass(frozen=True)
class Tree:
    """
    Attributes:
        benchmark: the real one with the miniature's counts.
        root: what --root is.
        images: files of the reported part.
        classes: names that the reader must give, in order; None where they are OpenAI's.
        split: the split or list file, if any.
    """

    benchmark: Benchmark
    root: Path
    images: tuple[Path, ...]
    classes: tuple[str, ...] | None = None
    split: Path | None = None


WORDNET = {
    # name: (folder in CoOp's layout, in TPT's, file name of image n, all numbers through)
    "imagenet": ("imagenet/images/val", "ImageNet/val", "ILSVRC2012_val_{:08d}.JPEG"),
    "imagenet-a": ("imagenet-adversarial/imagenet-a", "imagenet-a", "0.{:06d}_goldfish _ shark_0.9.jpg"),
    "imagenet-v2": (
        "imagenetv2/imagenetv2-matched-frequency-format-val",
        "imagenetv2-matched-frequency-format-val",
        "{:040x}.jpeg",
    ),
    "imagenet-r": ("imagenet-rendition/imagenet-r", "imagenet-r", "art_{}.jpg"),
    "imagenet-sketch": ("imagenet-sketch/images", "ImageNet-Sketch", "sketch_{}.JPEG"),
}


def wordnet_tree(name: str, root: Path, layout: str) -> Tree:
    coop, tpt, file_name = WORDNET[name]
    folder = root / (coop if layout == "coop" else tpt)
    ids = subset_ids(name) if name in ("imagenet-a", "imagenet-r") else wordnet_ids()
    files = []
    for label, key in enumerate(ids):
        inside = str(label) if name == "imagenet-v2" and layout == "coop" else key
        files.append(folder / inside / file_name.format(label + 1))
        put(files[-1], label)
    real = BENCHMARKS[name]
    mini = replace(real, images=len(ids), per_class=1 if real.per_class else None)
    return Tree(mini, root, tuple(files))


Path3 = Callable[[int, int], str]
SPLITS: dict[str, tuple[str, str, tuple[str, ...], Path3]] = {
    # name: (images in CoOp's layout, in TPT's, names in the split, (label, n) -> path in the split)
    "flowers102": (
        "oxford_flowers/jpg", "Flower102/jpg",
        ("pink primrose", "colt's foot", "shasta daisy"),
        lambda c, n: f"image_{10 * c + n:05d}.jpg",
    ),
    "dtd": (
        "dtd/images", "DTD/images",
        ("banded", "polka-dotted", "meshed"),
        lambda c, n: "{0}/{0}_{1:04d}.jpg".format(("banded", "polka-dotted", "meshed")[c], n),
    ),
    "oxford-pets": (
        "oxford_pets/images", "OxfordPets",
        ("abyssinian", "british_shorthair", "shiba_inu"),
        lambda c, n: f"{('Abyssinian', 'British_Shorthair', 'shiba_inu')[c]}_{n}.jpg",
    ),
    "stanford-cars": (
        "stanford_cars", "StanfordCars",
        ("2000 AM General Hummer SUV", "2012 Acura RL Sedan", "2007 Dodge Shelby"),
        lambda c, n: f"cars_test/{10 * c + n:05d}.jpg",
    ),
    "ucf101": (
        "ucf101/UCF-101-midframes", "UCF101",
        ("Apply_Eye_Makeup", "Brushing_Teeth", "Yo_Yo"),
        lambda c, n: f"{('Apply_Eye_Makeup', 'Brushing_Teeth', 'Yo_Yo')[c]}/v_{c}_g{n:02d}_c01.jpg",
    ),
    "caltech101": (
        "caltech-101/101_ObjectCategories", "Caltech101",
        ("face", "accordion", "crayfish"),
        lambda c, n: f"{('Faces', 'accordion', 'crayfish')[c]}/image_{n:04d}.jpg",
    ),
    "food101": (
        "food-101/images", "Food101/images",
        ("apple_pie", "fish_and_chips", "sushi"),
        lambda c, n: f"{('apple_pie', 'fish_and_chips', 'sushi')[c]}/{1000 + n}.jpg",
    ),
    "sun397": (
        "sun397/SUN397", "SUN397",
        ("abbey", "indoor apse", "shed"),
        lambda c, n: f"{('a/abbey', 'a/apse/indoor', 's/shed')[c]}/sun_a{n}.jpg",
    ),
    "eurosat": (
        "eurosat/2750", "eurosat",
        ("Annual Crop Land", "Sea or Lake", "River"),
        lambda c, n: "{0}/{0}_{1}.jpg".format(("AnnualCrop", "SeaLake", "River")[c], n),
    ),
}  # fmt: skip


def split_tree(name: str, root: Path, layout: str) -> Tree:
    """Three classes of one train, one val and two test images; TPT keeps its lists in data_splits/ instead."""
    coop, tpt, classes, path = SPLITS[name]
    folder = root / (coop if layout == "coop" else tpt)
    beside = folder if name in ("stanford-cars",) else folder.parent
    real = BENCHMARKS[name]
    rows: dict[str, list[tuple[str, int, str]]] = {"train": [], "val": [], "test": []}
    for part, numbers in (("train", (1,)), ("val", (2,)), ("test", (3, 4))):
        for number in numbers:
            for label, class_name in enumerate(classes):
                put(folder / path(label, number), label)
                rows[part].append((path(label, number), label, class_name))
    split = (beside if layout == "coop" else root / "data_splits") / real.split_file
    split.parent.mkdir(exist_ok=True)
    split.write_text(json.dumps(rows))
    if name == "flowers102":
        (split.parent / "cat_to_name.json").write_text(json.dumps({str(c + 1): n for c, n in enumerate(classes)}))
    if name == "stanford-cars":
        cars_meta(folder, [" ".join((*n.split()[1:], n.split()[0])) for n in classes])
    mini = replace(real, classes=3, images=6, tuning_images=3)
    shown = tuple(n.replace("_", " ") for n in classes)
    return Tree(mini, root, tuple(folder / p for p, _, _ in rows["test"]), shown, split)


def cars_meta(folder: Path, names: Sequence[str]) -> None:
    (folder / "devkit").mkdir(exist_ok=True)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array(list(names), dtype=object)})


def aircraft_tree(root: Path, layout: str) -> Tree:
    folder = root / ("fgvc_aircraft" if layout == "coop" else "fgvc-aircraft-2013b/data")
    classes = ("707-320", "A300B4", "Cessna 172")
    files = []
    for part, start in (("train", 1), ("val", 11), ("test", 21)):
        lines = []
        for n in range(6 if part == "test" else 3):
            put(folder / "images" / f"{start + n:07d}.jpg", n % 3)
            lines.append(f"{start + n:07d} {classes[n % 3]}")
        (folder / f"images_variant_{part}.txt").write_text("\n".join(lines) + "\n")
        files = [folder / "images" / f"{start + n:07d}.jpg" for n in range(len(lines))]
    (folder / "variants.txt").write_text("\n".join(classes) + "\n")
    mini = replace(BENCHMARKS["fgvc-aircraft"], classes=3, images=6, tuning_images=3)
    return Tree(mini, root, tuple(files), classes, folder / "images_variant_test.txt")


def plant(name: str, root: Path, layout: str = "coop") -> Tree:
    """The miniature of one of the fifteen."""
    if name in WORDNET:
        return wordnet_tree(name, root, layout)
    return aircraft_tree(root, layout) if name == "fgvc-aircraft" else split_tree(name, root, layout)
