"""CIFAR-100-C: CIFAR-100's test images under fifteen corruptions (Hendrycks & Dietterich 2019, arXiv 1903.12261)."""

from __future__ import annotations

from functools import partial

from grpo_tta.data.public.cifar import read_cifar_c
from grpo_tta.data.public.sets.cifar100 import CIFAR100
from grpo_tta.data.public.spec import Family

CIFAR100_C = Family(
    name="cifar100-c",
    title="CIFAR-100-C",
    clean=CIFAR100,
    read=partial(read_cifar_c, clean=CIFAR100),
    folders=lambda corruption, severity: ("CIFAR-100-C",),
    source=("CIFAR-100-C.tar from zenodo.org/records/3555552", *CIFAR100.source),
    layout=("CIFAR-100-C/gaussian_noise.npy", "CIFAR-100-C/labels.npy", *CIFAR100.layout),
    licence="CC BY 4.0",
)
