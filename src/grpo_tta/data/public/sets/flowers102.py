"""Flowers102."""

from __future__ import annotations

import json
from pathlib import Path

from grpo_tta.data.public.spec import UNKNOWN_LICENCE, Benchmark, Official, from_coop
from grpo_tta.data.public.splits import read_split


def names_in(path: Path) -> list[str]:
    content = json.loads(path.read_text())
    return [content[str(number)] for number in range(1, len(content) + 1)]


FLOWERS102 = Benchmark(
    name="flowers102",
    title="Flowers102",
    kind="cross-domain",
    classes=102,
    images=2_463,
    tuning_images=1_633,
    read=read_split,
    split_file="split_zhou_OxfordFlowers.json",
    annotation="cat_to_name.json",
    names_in=names_in,
    own_template="a photo of a {}, a type of flower.",
    folders=("oxford_flowers/jpg", "Flower102/jpg", "flowers-102/jpg"),
    source=(
        "102flowers.tgz and imagelabels.mat from www.robots.ox.ac.uk/~vgg/data/flowers/102",
        from_coop("split_zhou_OxfordFlowers.json and cat_to_name.json"),
    ),
    layout=(
        "oxford_flowers/jpg/image_00001.jpg",
        "oxford_flowers/split_zhou_OxfordFlowers.json",
        "oxford_flowers/cat_to_name.json",
    ),
    licence=UNKNOWN_LICENCE,
    zero_shot=67.44,
    downloads=(("Flowers102", (("split", "test"),)),),
    official=Official("Flowers102", (("split", "test"),), 6_149),
)
