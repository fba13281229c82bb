"""Stanford Cars."""

from __future__ import annotations

import re
from pathlib import Path

from grpo_tta.data.public.spec import Benchmark, Official, from_coop
from grpo_tta.data.public.splits import read_split


def names_in(path: Path) -> list[str]:
    """ "Acura RL Sedan 2012" -> "2012 Acura RL Sedan", as CoOp has it."""
    from scipy.io import loadmat

    names = loadmat(str(path), squeeze_me=True)["class_names"]
    return [re.sub(r"^(.*) (\d{4})$", r"\2 \1", str(name)) for name in names]


STANFORD_CARS = Benchmark(
    name="stanford-cars",
    title="Stanford Cars",
    kind="cross-domain",
    classes=196,
    images=8_041,
    tuning_images=1_635,
    read=read_split,
    split_file="split_zhou_StanfordCars.json",
    annotation="devkit/cars_meta.mat",
    names_in=names_in,
    small_models=(),
    folders=("stanford_cars", "StanfordCars"),
    source=(
        "cars_train.tgz, cars_test.tgz, car_devkit.tgz and cars_test_annos_withlabels.mat; the authors' page is gone, "
        "mirrors carry them",
        from_coop("split_zhou_StanfordCars.json"),
    ),
    layout=(
        "stanford_cars/cars_test/00001.jpg",
        "stanford_cars/devkit/cars_meta.mat",
        "stanford_cars/split_zhou_StanfordCars.json",
    ),
    licence="non-commercial research",
    zero_shot=65.48,
    official=Official("StanfordCars", (("split", "test"),), 8_041),
)
