"""Whether a stream's imbalance is bias of the model, by coarse content-free views; and how far to divide it out.

A shifted model answers with its favourite classes whatever it sees. In coarse content-free views the objects are in pieces, so
these favourites alone show, and their mean prediction has the *lower* entropy. Where a stream truly holds few classes, its own
mean has the lower one. So the sign of the difference sets bias apart from truth. It is a lead, measured on small models alone.

Sizes: N images of a minibatch, P coarse views, C classes, S pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from grpo_tta.config.checks import check_at_least, check_positive
from grpo_tta.engine.distributions import entropy
from grpo_tta.engine.encode import encode_views
from grpo_tta.engine.interface import ImageBatch, State
from grpo_tta.engine.policy import Policy
from grpo_tta.images.seeds import image_generator
from grpo_tta.images.views import shuffle_patches

_GATE = "gate."


@final
@dataclass(frozen=True)
class BiasGate:
    """The weight of the stream prior: min(1, gain * max(0, H(mean over images) - H(mean over coarse content-free views))).

    Attributes:
        gain: weight per nat of difference.
        views: P, coarse content-free views of each image.
        grid: view 0 is divided into grid x grid patches. A fine grid destroys what the sign lives on.
    """

    gain: float = 5.0
    views: int = 2
    grid: int = 4

    def __post_init__(self) -> None:
        check_positive("gain", self.gain)
        check_at_least("views", self.views, 1)
        check_at_least("grid", self.grid, 2)

    def __call__(self, images: Tensor, coarse: Tensor) -> float:
        """From 0 to 1.

        Args:
            images, coarse: mean predictions of the stream so far for its images and their coarse views, `[C]` each.
        """
        difference = float(entropy(images.log()) - entropy(coarse.log()))
        return min(1.0, self.gain * max(0.0, difference))

    def coarse_views(self, batch: ImageBatch) -> Tensor:
        """The views of `ViewSettings(content_free=views, patch_grid=grid)`, whatever grid the batch was made with:
        `[N, P, 3, S, S]`."""
        shape = (self.views, self.grid**2)
        generators = [image_generator(batch.seed, name, "copies") for name in batch.image_ids]
        orders = torch.stack([torch.rand(shape, generator=generator).argsort(-1) for generator in generators])
        return shuffle_patches(batch.views[:, 0], orders.to(batch.views.device), self.grid)


def smoothed_mean(sums: Tensor, count: float, pseudo_images: float) -> Tensor:
    """(sums + n0 / C) / (count + n0), `[C]`: the mean of `count` predictions, and of n0 uniform ones before them."""
    return (sums + pseudo_images / len(sums)) / (count + pseudo_images)


@final
@dataclass(frozen=True)
class GateCounts:
    """Sums over the images of a stream so far, of the frozen model: what it favours does not change while another adapts.

    Attributes:
        images, coarse: `[C]`, of the ensemble predictions, and of the mean predictions for coarse content-free views.
        count: how many images.
    """

    images: Tensor
    coarse: Tensor
    count: float

    def add(self, policy: Policy, batch: ImageBatch, gate: BiasGate, ensemble: Tensor) -> GateCounts:
        """With N more images, whose ensemble predictions by the frozen model are `[N, C]` log-probabilities."""
        views = gate.coarse_views(batch)
        coarse = encode_views(policy, views, views[:, :0]).log_probs.exp().mean(1)  # [N, C]
        return GateCounts(self.images + ensemble.exp().sum(0), self.coarse + coarse.sum(0), self.count + len(coarse))

    def weight(self, gate: BiasGate, pseudo_images: float) -> float:
        """Of the stream prior. Both means start with `pseudo_images` images' worth of a uniform one."""
        images, coarse = (smoothed_mean(sums, self.count, pseudo_images) for sums in (self.images, self.coarse))
        return gate(images, coarse)

    def state(self) -> State:
        return {_GATE + "images": self.images, _GATE + "coarse": self.coarse, _GATE + "count": torch.tensor(self.count)}


def gate_counts_of(state: State, policy: Policy, device: torch.device) -> GateCounts:
    """What a state holds; an empty one starts afresh."""
    if not state:
        zeros = torch.zeros(policy.classes, device=device)
        return GateCounts(zeros, zeros, 0.0)
    images, coarse = (state[_GATE + key].to(device) for key in ("images", "coarse"))
    return GateCounts(images, coarse, float(state[_GATE + "count"]))
