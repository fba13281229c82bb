"""Caltech101."""

from __future__ import annotations

from grpo_tta.data.public.spec import Benchmark, from_coop
from grpo_tta.data.public.splits import class_by_folder, read_split

_NAMES = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}


def class_of(path: str) -> str:
    folder = class_by_folder(path)
    return _NAMES.get(folder, folder)


CALTECH101 = Benchmark(
    name="caltech101",
    title="Caltech101",
    kind="cross-domain",
    classes=100,
    images=2_465,
    tuning_images=1_649,
    read=read_split,
    split_file="split_zhou_Caltech101.json",
    class_of=class_of,
    folders=(
        "caltech-101/101_ObjectCategories",
        "Caltech101",
        "Caltech101/101_ObjectCategories",
        "caltech101/101_ObjectCategories",
    ),
    source=("caltech-101.zip from data.caltech.edu/records/mzrjq-6wc02", from_coop("split_zhou_Caltech101.json")),
    layout=("caltech-101/101_ObjectCategories/accordion/image_0001.jpg", "caltech-101/split_zhou_Caltech101.json"),
    licence="CC BY 4.0",
    zero_shot=93.35,
    downloads=(("Caltech101", ()),),
)
