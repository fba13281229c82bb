"""ImageNet's validation images."""

from __future__ import annotations

from grpo_tta.data.public.imagenet import read_classes
from grpo_tta.data.public.spec import Benchmark

IMAGENET = Benchmark(
    name="imagenet",
    title="ImageNet",
    kind="source",
    classes=1000,
    images=50_000,
    per_class=50,
    file_name="ILSVRC2012_val_{:08d}",
    read=read_classes,
    small_models=(),
    folders=("imagenet/images/val", "ImageNet/val", "imagenet/val", "val"),
    source=(
        "ILSVRC2012_img_val.tar from image-net.org (an account is needed)",
        "sort the 50,000 files into their 1000 class folders, for example with torchvision.datasets.ImageNet",
    ),
    layout=("imagenet/images/val/n01440764/ILSVRC2012_val_00000293.JPEG",),
    licence="non-commercial research, by the terms of image-net.org",
    zero_shot=66.73,
)
