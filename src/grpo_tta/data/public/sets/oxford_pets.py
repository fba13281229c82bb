"""Oxford-IIIT Pets."""

from __future__ import annotations

from pathlib import PurePosixPath

from grpo_tta.data.public.spec import Benchmark, Official, from_coop
from grpo_tta.data.public.splits import read_split


def class_of(path: str) -> str:
    """ "yorkshire_terrier_12.jpg" -> "yorkshire_terrier"; cats are capitalised on disk."""
    return PurePosixPath(path).stem.rpartition("_")[0].lower()


OXFORD_PETS = Benchmark(
    name="oxford-pets",
    title="Oxford-IIIT Pets",
    kind="cross-domain",
    classes=37,
    images=3_669,
    tuning_images=736,
    read=read_split,
    split_file="split_zhou_OxfordPets.json",
    class_of=class_of,
    own_template="a photo of a {}, a type of pet.",
    small_models=("photo-clip",),
    folders=("oxford_pets/images", "OxfordPets", "OxfordPets/images", "oxford-iiit-pet/images"),
    source=(
        "images.tar.gz and annotations.tar.gz from www.robots.ox.ac.uk/~vgg/data/pets",
        from_coop("split_zhou_OxfordPets.json"),
    ),
    layout=("oxford_pets/images/Abyssinian_201.jpg", "oxford_pets/split_zhou_OxfordPets.json"),
    licence="CC BY-SA 4.0",
    zero_shot=88.25,
    downloads=(("OxfordIIITPet", (("split", "test"),)),),
    official=Official("OxfordIIITPet", (("split", "test"),), 3_669),
)
