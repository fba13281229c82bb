"""The public data sets, by name: one file in `sets/` and one line here.

Counts are those of the data sets' own pages and of CoOp's splits. Zero-shot figures are those that others publish for CLIP
ViT-B/16 with the template "a photo of a {}." and OpenAI's or CoOp's class names (TPT, ZERO, DPE). They are a reader's sanity
check; none was measured here.
"""

from __future__ import annotations

from collections.abc import Mapping

from grpo_tta.data.public.sets.caltech101 import CALTECH101
from grpo_tta.data.public.sets.cifar10 import CIFAR10
from grpo_tta.data.public.sets.cifar10_c import CIFAR10_C
from grpo_tta.data.public.sets.cifar100 import CIFAR100
from grpo_tta.data.public.sets.cifar100_c import CIFAR100_C
from grpo_tta.data.public.sets.dtd import DTD
from grpo_tta.data.public.sets.eurosat import EUROSAT
from grpo_tta.data.public.sets.fgvc_aircraft import FGVC_AIRCRAFT
from grpo_tta.data.public.sets.flowers102 import FLOWERS102
from grpo_tta.data.public.sets.food101 import FOOD101
from grpo_tta.data.public.sets.imagenet import IMAGENET
from grpo_tta.data.public.sets.imagenet_a import IMAGENET_A
from grpo_tta.data.public.sets.imagenet_c import IMAGENET_C
from grpo_tta.data.public.sets.imagenet_r import IMAGENET_R
from grpo_tta.data.public.sets.imagenet_sketch import IMAGENET_SKETCH
from grpo_tta.data.public.sets.imagenet_v2 import IMAGENET_V2
from grpo_tta.data.public.sets.oxford_pets import OXFORD_PETS
from grpo_tta.data.public.sets.stanford_cars import STANFORD_CARS
from grpo_tta.data.public.sets.sun397 import SUN397
from grpo_tta.data.public.sets.ucf101 import UCF101
from grpo_tta.data.public.spec import Benchmark, Family

FIFTEEN: tuple[Benchmark, ...] = (
    IMAGENET,
    IMAGENET_A,
    IMAGENET_V2,
    IMAGENET_R,
    IMAGENET_SKETCH,
    FLOWERS102,
    DTD,
    OXFORD_PETS,
    STANFORD_CARS,
    UCF101,
    CALTECH101,
    FOOD101,
    SUN397,
    FGVC_AIRCRAFT,
    EUROSAT,
)
"""The fifteen on which the field reports, in the order of its tables."""

OTHERS: tuple[Benchmark, ...] = (
    CIFAR10,
    CIFAR100,
)

CORRUPTED: tuple[Family, ...] = (
    IMAGENET_C,
    CIFAR10_C,
    CIFAR100_C,
)

BENCHMARKS: Mapping[str, Benchmark] = {benchmark.name: benchmark for benchmark in (*FIFTEEN, *OTHERS)}
FAMILIES: Mapping[str, Family] = {family.name: family for family in CORRUPTED}
