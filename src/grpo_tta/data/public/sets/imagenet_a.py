"""ImageNet-A: natural adversarial examples (Hendrycks et al. 2021, arXiv 1907.07174)."""

from __future__ import annotations

from functools import partial

from grpo_tta.data.public.imagenet import read_classes
from grpo_tta.data.public.spec import Benchmark

IMAGENET_A = Benchmark(
    name="imagenet-a",
    title="ImageNet-A",
    kind="shifted",
    classes=200,
    images=7_500,
    read=partial(read_classes, subset="imagenet-a"),
    small_models=("photo-clip",),
    folders=("imagenet-adversarial/imagenet-a", "imagenet-a"),
    source=("imagenet-a.tar, linked from github.com/hendrycks/natural-adv-examples",),
    layout=("imagenet-adversarial/imagenet-a/n01498041/0.000116_digital clock _ digital clock_0.865662.jpg",),
    licence="MIT for the repository; the images stay with their owners",
    zero_shot=47.87,
)
