"""ImageNet-V2, matched frequency (Recht et al. 2019, arXiv 1902.10811)."""

from __future__ import annotations

from grpo_tta.data.public.imagenet import read_numbered
from grpo_tta.data.public.spec import Benchmark

IMAGENET_V2 = Benchmark(
    name="imagenet-v2",
    title="ImageNet-V2 (matched frequency)",
    kind="shifted",
    classes=1000,
    images=10_000,
    per_class=10,
    read=read_numbered,
    small_models=(),
    folders=("imagenetv2/imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency-format-val"),
    source=("imagenetv2-matched-frequency.tar.gz, linked from github.com/modestyachts/ImageNetV2",),
    layout=("imagenetv2/imagenetv2-matched-frequency-format-val/0/… (folders 0 to 999)",),
    licence="MIT for the repository; the images stay with their owners",
    zero_shot=60.86,
)
