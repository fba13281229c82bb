"""CIFAR-10-C: CIFAR-10's test images under fifteen corruptions (Hendrycks & Dietterich 2019, arXiv 1903.12261)."""

from __future__ import annotations

from functools import partial

from grpo_tta.data.public.cifar import read_cifar_c
from grpo_tta.data.public.sets.cifar10 import CIFAR10
from grpo_tta.data.public.spec import Family

CIFAR10_C = Family(
    name="cifar10-c",
    title="CIFAR-10-C",
    clean=CIFAR10,
    read=partial(read_cifar_c, clean=CIFAR10),
    folders=lambda corruption, severity: ("CIFAR-10-C",),
    source=("CIFAR-10-C.tar from zenodo.org/records/2535967", *CIFAR10.source),
    layout=("CIFAR-10-C/gaussian_noise.npy", "CIFAR-10-C/labels.npy", *CIFAR10.layout),
    licence="CC BY 4.0",
)
