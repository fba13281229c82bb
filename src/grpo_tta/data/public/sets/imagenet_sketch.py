"""ImageNet-Sketch (Wang et al. 2019, arXiv 1905.13549)."""

from __future__ import annotations

from grpo_tta.data.public.imagenet import read_classes
from grpo_tta.data.public.spec import Benchmark

IMAGENET_SKETCH = Benchmark(
    name="imagenet-sketch",
    title="ImageNet-Sketch",
    kind="shifted",
    classes=1000,
    images=50_889,
    read=read_classes,
    small_models=(),
    folders=("imagenet-sketch/images", "ImageNet-Sketch", "imagenet-sketch", "sketch"),
    source=("ImageNet-Sketch.zip, linked from github.com/HaohanWang/ImageNet-Sketch",),
    layout=("imagenet-sketch/images/n01440764/sketch_0.JPEG",),
    licence="MIT for the repository; the images stay with their owners",
    zero_shot=46.09,
)
