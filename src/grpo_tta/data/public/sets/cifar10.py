"""CIFAR-10, through torchvision."""

from __future__ import annotations

from functools import partial

from grpo_tta.data.public.cifar import read_cifar
from grpo_tta.data.public.spec import UNKNOWN_LICENCE, Benchmark

CIFAR10 = Benchmark(
    name="cifar10",
    title="CIFAR-10",
    kind="cross-domain",
    classes=10,
    images=10_000,
    tuning_images=50_000,
    read=partial(read_cifar, dataset="CIFAR10"),
    folders=("cifar-10-batches-py",),
    source=("cifar-10-python.tar.gz from www.cs.toronto.edu/~kriz/cifar.html",),
    layout=("cifar-10-batches-py/test_batch", "cifar-10-batches-py/batches.meta"),
    licence=UNKNOWN_LICENCE,
    downloads=(("CIFAR10", (("train", False),)),),
)
