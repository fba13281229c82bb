"""ImageNet-C: ImageNet's validation images under fifteen corruptions (Hendrycks & Dietterich 2019, arXiv 1903.12261)."""

from __future__ import annotations

from pathlib import Path

from grpo_tta.data.public.corrupted import CORRUPTION_GROUPS
from grpo_tta.data.public.imagenet import read_classes
from grpo_tta.data.public.sets.imagenet import IMAGENET
from grpo_tta.data.public.spec import Benchmark, Family, Listing, Part


def read(benchmark: Benchmark, root: Path, part: Part, *, corruption: str, severity: int) -> Listing:
    """Which corruption and severity it is stands in the benchmark's folders."""
    return read_classes(benchmark, root, part)


def folders(corruption: str, severity: int) -> tuple[str, ...]:
    """As the archives unpack, below a folder of the set or not, with the group's name or without."""
    group = next(group for group, names in CORRUPTION_GROUPS.items() if corruption in names)
    places = (f"{corruption}/{severity}", f"{group}/{corruption}/{severity}")
    return tuple(f"{base}/{place}" for base in ("ImageNet-C", "imagenet-c") for place in places) + places


IMAGENET_C = Family(
    name="imagenet-c",
    title="ImageNet-C",
    clean=IMAGENET,
    read=read,
    folders=folders,
    source=("noise.tar, blur.tar, weather.tar and digital.tar from zenodo.org/records/2235448",),
    layout=("ImageNet-C/gaussian_noise/1/n01440764/ILSVRC2012_val_00000293.JPEG",),
    licence="CC BY 4.0, over ImageNet's own terms",
)
