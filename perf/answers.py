"""Answers of every method on a few images, stored, or compared with those stored before a change that must keep them.

    python perf/answers.py store build/answers.safetensors
    python perf/answers.py compare build/answers.safetensors

Log-probabilities are taken by calling the methods: three nano tasks (16 images each), two photo tasks (8 each; `--photos-root`)
and one stream in two batches that share state. The variants are settings that no preset uses.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from grpo_tta.backbones.base import Backbone, load_backbone
from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.baselines.registry import known_methods
from grpo_tta.baselines.teacher import taught_methods
from grpo_tta.data.photos import photo_tasks
from grpo_tta.data.tasks import Task, nano_tasks, random_key
from grpo_tta.engine.encode import encode_for
from grpo_tta.engine.interface import Method
from grpo_tta.engine.optim import SGD, Adam
from grpo_tta.engine.parameters import LowRank, NormAffine
from grpo_tta.engine.policy import Policy
from grpo_tta.images.read import to_rgb
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.candidates import Nucleus, Sample, TopK
from grpo_tta.method.grpo import grpo_method
from grpo_tta.method.objective import Centred, Target, ZScore
from grpo_tta.method.rewards import Alignment, ContentFree, Semantic
from grpo_tta.method.settings import DEFAULT, PAPER, Steps
from grpo_tta.method.weighting import ByEntropy, MostConfident

NANO, PHOTOS, STREAM = ("fog", "digits", "sketch"), ("tiny-gaussian_noise-3", "tiny-as-cifar"), "stream-zipf"


def variants() -> list[Method]:
    """Settings for ablation that no preset uses."""
    made = {
        "nucleus": replace(DEFAULT, group=Nucleus(mass=0.9, at_most=6)),
        "sample": replace(DEFAULT, group=Sample()),
        "sample-view": replace(DEFAULT, group=Sample(per="view")),
        "centred": replace(DEFAULT, advantage=Centred()),
        "zscore": replace(DEFAULT, advantage=ZScore()),
        "low-rank": replace(DEFAULT, tune=LowRank(rank=4, last_blocks=3), steps=Steps(1, SGD(0.05))),
        "max-kl": replace(DEFAULT, steps=Steps(3, SGD(3.0), max_kl=0.01)),
        "semantic": replace(DEFAULT, reward=Alignment() + 0.05 * ContentFree() + 0.3 * Semantic(), advantage=ZScore()),
        "clip-and-kl": replace(DEFAULT, tune=NormAffine(), steps=Steps(3, Adam(1e-2, max_norm=1.0), clip=0.05, kl=0.5)),
        "temperature": replace(DEFAULT, advantage=Target(0.5), group=TopK(3), weighting=ByEntropy(2.0)),
        "paper-view": replace(PAPER, views=ViewSettings(views=16, content_free=2), weighting=MostConfident(4)),
    }
    return [grpo_method(settings, f"variant-{name}") for name, settings in made.items()]


def methods_of(backbone: Backbone) -> list[Method]:
    return [*known_methods().values(), *variants(), *taught_methods(["rlcf"], backbone)]


def answers(backbone: Backbone, task: Task, count: int, batches: int = 1) -> Iterator[tuple[str, Tensor]]:
    """Method and task -> log-probabilities `[N, C]` after adaptation, and passes of each image."""
    prompts = make_prompts(backbone, task.classes, task.templates, task.ensemble, repeats=task.repeated_names)
    policy = Policy(backbone, prompts)
    images = [to_rgb(task.load(number)[0]) for number in range(count)]
    names = tuple(random_key(task, number, image) for number, image in enumerate(images))
    for method in methods_of(backbone):
        if batches > 1 and method.protocol == "episodic":
            continue
        state: dict[str, Tensor] = {}
        size = count // batches
        for first in range(0, count, size):
            some = slice(first, first + size)
            batch = encode_for([method], policy, images[some], names[some], ViewSettings(), 0)
            adaptation, state = method(policy, batch, state)
            where = f"{task.name}/{method.name}/{first}"
            yield f"{where}/after", adaptation.after.contiguous()
            yield f"{where}/cost", torch.tensor([adaptation.cost.of(image) for image in range(len(adaptation.after))])


def everything(photos_root: Path | None) -> Iterator[tuple[str, Tensor]]:
    nano = load_backbone("nano-clip")
    for task in nano_tasks(NANO, "tuning"):
        yield from answers(nano, task, 16)
    yield from answers(nano, nano_tasks([STREAM], "tuning")[0], 64, batches=2)
    if photos_root is not None:
        photo = load_backbone("photo-clip")
        for task in photo_tasks(photos_root, PHOTOS, "tuning"):
            yield from answers(photo, task, 8)


def compare(found: dict[str, Tensor], stored: dict[str, Tensor]) -> bool:
    """Prints the largest difference of every method, and whether all are within 1e-5 (methods with Adam: 1e-3)."""
    worst: dict[str, float] = {}
    for key, value in found.items():
        method = key.split("/")[1] + (" (cost)" if key.endswith("cost") else "")
        apart = float((value - stored[key]).abs().max()) if stored[key].shape == value.shape else float("inf")
        worst[method] = max(worst.get(method, 0.0), apart)
    for method, apart in worst.items():
        print(f"{method:40s} {apart:.1e}{'' if apart else '  bitwise'}")
    missing = sorted(stored.keys() - found.keys())
    print(f"{len(found)} answers, {len(missing)} missing {missing[:3]}")
    return not missing and all(apart <= 1e-3 for apart in worst.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["store", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--photos-root", type=Path, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = dict(everything(given.photos_root))
    if given.what == "store":
        given.file.parent.mkdir(parents=True, exist_ok=True)
        save_file(found, given.file)
        print(f"{len(found)} answers stored")
    elif not compare(found, load_file(given.file)):
        raise SystemExit("The answers are not the same.")


if __name__ == "__main__":
    main()
