"""CIFAR-100, through torchvision."""

from __future__ import annotations

from functools import partial

from grpo_tta.data.public.cifar import read_cifar
from grpo_tta.data.public.spec import UNKNOWN_LICENCE, Benchmark

CIFAR100 = Benchmark(
    name="cifar100",
    title="CIFAR-100",
    kind="cross-domain",
    classes=100,
    images=10_000,
    tuning_images=50_000,
    read=partial(read_cifar, dataset="CIFAR100"),
    folders=("cifar-100-python",),
    source=("cifar-100-python.tar.gz from www.cs.toronto.edu/~kriz/cifar.html",),
    layout=("cifar-100-python/test", "cifar-100-python/meta"),
    licence=UNKNOWN_LICENCE,
    downloads=(("CIFAR100", (("train", False),)),),
)
