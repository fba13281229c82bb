"""Published corrupted test sets, of fifteen corruptions and five severities each: a family of benchmarks, one a cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import final

from grpo_tta.data.public.catalogue import BENCHMARKS, CIFAR10, CIFAR100
from grpo_tta.data.public.cifar import read_cifar_c
from grpo_tta.data.public.corrupted import CORRUPTION_GROUPS
from grpo_tta.data.public.imagenet import read_classes
from grpo_tta.data.public.spec import Benchmark


@final
@dataclass(frozen=True)
class Family:
    """
    Attributes:
        name, title: of the family.
        clean: the benchmark that was corrupted.
        source, layout, licence: as in `Benchmark`.
    """

    name: str
    title: str
    clean: Benchmark
    source: tuple[str, ...]
    layout: tuple[str, ...]
    licence: str

    def cell(self, corruption: str, severity: int) -> Benchmark:
        """One corruption at one severity as a benchmark of its own."""
        if self.name == "imagenet-c":
            group = next(group for group, names in CORRUPTION_GROUPS.items() if corruption in names)
            places = (f"{corruption}/{severity}", f"{group}/{corruption}/{severity}")
            folders = tuple(f"{base}/{place}" for base in ("ImageNet-C", "imagenet-c") for place in places) + places
            read = read_classes
        else:
            folders = (self.title,)
            read = partial(read_cifar_c, clean=self.clean, corruption=corruption, severity=severity)
        return Benchmark(
            name=f"{self.name}-{corruption}-{severity}",
            title=f"{self.title} ({corruption}, severity {severity})",
            kind="shifted",
            classes=self.clean.classes,
            images=self.clean.images,
            per_class=self.clean.per_class,
            file_name=self.clean.file_name,
            read=read,
            folders=folders,
            source=self.source,
            layout=self.layout,
            licence=self.licence,
            root_itself=False,  # a folder of clean images looks just like one of corrupted ones
        )


FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family(
            "imagenet-c",
            "ImageNet-C",
            BENCHMARKS["imagenet"],
            ("noise.tar, blur.tar, weather.tar and digital.tar from zenodo.org/records/2235448",),
            ("ImageNet-C/gaussian_noise/1/n01440764/ILSVRC2012_val_00000293.JPEG",),
            "CC BY 4.0, over ImageNet's own terms",
        ),
        Family(
            "cifar10-c",
            "CIFAR-10-C",
            CIFAR10,
            ("CIFAR-10-C.tar from zenodo.org/records/2535967", *CIFAR10.source),
            ("CIFAR-10-C/gaussian_noise.npy", "CIFAR-10-C/labels.npy", *CIFAR10.layout),
            "CC BY 4.0",
        ),
        Family(
            "cifar100-c",
            "CIFAR-100-C",
            CIFAR100,
            ("CIFAR-100-C.tar from zenodo.org/records/3555552", *CIFAR100.source),
            ("CIFAR-100-C/gaussian_noise.npy", "CIFAR-100-C/labels.npy", *CIFAR100.layout),
            "CC BY 4.0",
        ),
    )
}
