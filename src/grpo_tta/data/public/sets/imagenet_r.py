"""ImageNet-R: renditions (Hendrycks et al. 2021, arXiv 2006.16241)."""

from __future__ import annotations

from functools import partial

from grpo_tta.data.public.imagenet import read_classes
from grpo_tta.data.public.spec import Benchmark

IMAGENET_R = Benchmark(
    name="imagenet-r",
    title="ImageNet-R",
    kind="shifted",
    classes=200,
    images=30_000,
    read=partial(read_classes, subset="imagenet-r"),
    folders=("imagenet-rendition/imagenet-r", "imagenet-r"),
    source=("imagenet-r.tar, linked from github.com/hendrycks/imagenet-r",),
    layout=("imagenet-rendition/imagenet-r/n01443537/art_0.jpg",),
    licence="MIT for the repository; the images stay with their owners",
    zero_shot=73.98,
)
