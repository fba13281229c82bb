"""Food101."""

from __future__ import annotations

from grpo_tta.data.public.spec import Benchmark, Official, from_coop
from grpo_tta.data.public.splits import class_by_folder, read_split

FOOD101 = Benchmark(
    name="food101",
    title="Food101",
    kind="cross-domain",
    classes=101,
    images=30_300,
    tuning_images=20_200,
    read=read_split,
    split_file="split_zhou_Food101.json",
    class_of=class_by_folder,
    own_template="a photo of {}, a type of food.",
    small_models=("photo-clip",),
    folders=("food-101/images", "Food101/images"),
    source=(
        "food-101.tar.gz from data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
        from_coop("split_zhou_Food101.json"),
    ),
    layout=("food-101/images/apple_pie/1005649.jpg", "food-101/split_zhou_Food101.json"),
    licence="scientific fair use; the images stay with Foodspotting's users",
    zero_shot=83.65,
    downloads=(("Food101", (("split", "test"),)),),
    official=Official("Food101", (("split", "test"),), 25_250),
)
