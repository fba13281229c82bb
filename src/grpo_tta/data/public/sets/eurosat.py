"""EuroSAT (RGB)."""

from __future__ import annotations

from grpo_tta.data.public.spec import Benchmark, from_coop
from grpo_tta.data.public.splits import class_by_folder, read_split

_NAMES = {
    "AnnualCrop": "Annual Crop Land",
    "Forest": "Forest",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "River": "River",
    "SeaLake": "Sea or Lake",
}


def class_of(path: str) -> str:
    folder = class_by_folder(path)
    return _NAMES.get(folder, folder)


EUROSAT = Benchmark(
    name="eurosat",
    title="EuroSAT (RGB)",
    kind="cross-domain",
    classes=10,
    images=8_100,
    tuning_images=5_400,
    read=read_split,
    split_file="split_zhou_EuroSAT.json",
    class_of=class_of,
    own_template="a centered satellite photo of {}.",
    folders=("eurosat/2750", "eurosat/EuroSAT_RGB", "EuroSAT_RGB", "eurosat"),
    source=(
        "EuroSAT_RGB.zip (or the older EuroSAT.zip), linked from github.com/phelber/EuroSAT",
        from_coop("split_zhou_EuroSAT.json"),
    ),
    layout=("eurosat/2750/AnnualCrop/AnnualCrop_1.jpg", "eurosat/split_zhou_EuroSAT.json"),
    licence="MIT for the repository; Sentinel-2 images are free with attribution",
    zero_shot=42.01,
    downloads=(("EuroSAT", ()),),
)
