"""Whether a stream's imbalance is bias of the model or truth, by coarse content-free views and by how sure the answers are.

A shifted model answers with its favourite classes whatever it sees. In coarse content-free views the objects are in pieces, so
these favourites stand out at least as much as in the images themselves. Where a stream truly holds more of some classes, these
stand out in its images, and less in pieces of them. So the gate asks: along the direction in which the stream's mean prediction
leans, how far do content-free views lean? They have to lean more the further the stream leans, as a favourite of the model
takes a part of the answers and the only class of a stream takes nearly all of them; more where the answers are sure, as a model
that is lost favours classes without being sure of any image; and more while few images were seen.

Bias is divided out. Truth is multiplied in: what occurs often is the better guess. It counts as truth where the stream leans,
pieces lean less, and the answers are sure. In between nothing is done.

Sizes: N images of a minibatch, P coarse views, C classes, S pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from grpo_tta.config.checks import check_at_least, check_share
from grpo_tta.engine.encode import encode_views
from grpo_tta.engine.interface import ImageBatch
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError
from grpo_tta.images.seeds import image_generator
from grpo_tta.images.views import shuffle_patches


def ramp(value: Tensor, none: float, full: float) -> Tensor:
    """0 at `none`, 1 at `full`, linear between and constant beyond; either may be the larger one."""
    return ((value - none) / (full - none)).clamp(0.0, 1.0)


@final
@dataclass(frozen=True)
class Evidence:
    """What a stream showed so far.

    Attributes:
        images, coarse: q and g, the mean predictions for its images and for their coarse content-free views, `[C]` each.
        entropy: mean relative entropy of the predictions for its images, from 0 to 1, `[]`.
        count: n, how many images these are, above 0.
    """

    images: Tensor
    coarse: Tensor
    entropy: Tensor
    count: float

    @property
    def slope(self) -> Tensor:
        """<l(q), l(g)> / <l(q), l(q)>, of the regression of l(g) on l(q), where l(p) = log p less its mean over classes."""
        leaning, favoured = (p.log() - p.log().mean() for p in (self.images, self.coarse))
        return (leaning * favoured).sum() / leaning.square().sum().clamp_min(1e-12)

    @property
    def lean(self) -> Tensor:
        """KL(q || uniform), nats."""
        return (self.images * (self.images * len(self.images)).log()).sum()


@final
@dataclass(frozen=True)
class BiasGate:
    """The weight of the stream prior, from 1, divided out as bias, to -1, multiplied in as truth: w = bias - truth.

    bias = ramp(slope + doubt * (entropy - lean) - early / n) from low to high.
    truth = ramp(lean) * ramp(entropy) * ramp(slope).
    Slope and lean do not change where every label is listed twice.

    Attributes:
        low, high: margins at which the prior is left out, and divided out all the way.
        doubt: how much more slope a stream needs per nat that it leans, and per unit of mean relative entropy that it lacks.
        early: how much more slope the first image would need; n images need 1 / n of it.
        leans, sure, fades: from where to where truth rises from 0 to 1: the lean in nats, the mean relative entropy, the slope.
        truth: how far truth is multiplied in, from 0 to 1.
        views: P, coarse content-free views of each image.
        grid: view 0 is divided into grid x grid patches. In a fine grid nothing is left of an object, and every model leans
            somewhere.
    """

    low: float = 1.1
    high: float = 1.2
    doubt: float = 0.75
    early: float = 8.0
    leans: tuple[float, float] = (0.2, 0.4)
    sure: tuple[float, float] = (0.4, 0.3)
    fades: tuple[float, float] = (1.0, 0.9)
    truth: float = 1.0
    views: int = 2
    grid: int = 4

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise UserError(f"The gate opens between low and high; low must be below high, not {self.low} and {self.high}.")
        for name, (none, full) in {"leans": self.leans, "sure": self.sure, "fades": self.fades}.items():
            if none == full:
                raise UserError(f"{name} must be two different numbers, from where to where truth rises, not {none} twice.")
        check_at_least("doubt", self.doubt, 0)
        check_at_least("early", self.early, 0)
        check_share("truth", self.truth)
        check_at_least("views", self.views, 1)
        check_at_least("grid", self.grid, 2)

    def __call__(self, seen: Evidence) -> Tensor:
        """From -1 to 1, without a dimension. 0 where the stream does not lean at all."""
        slope, lean = seen.slope, seen.lean
        bias = ramp(slope + self.doubt * (seen.entropy - lean) - self.early / seen.count, self.low, self.high)
        truth = ramp(lean, *self.leans) * ramp(seen.entropy, *self.sure) * ramp(slope, *self.fades)
        return bias - self.truth * truth

    def coarse_views(self, batch: ImageBatch) -> Tensor:
        """The views of `ViewSettings(content_free=views, patch_grid=grid)`, whatever grid the batch was made with:
        `[N, P, 3, S, S]`."""
        shape = (self.views, self.grid**2)
        generators = [image_generator(batch.seed, name, "copies") for name in batch.image_ids]
        orders = torch.stack([torch.rand(shape, generator=generator).argsort(-1) for generator in generators])
        return shuffle_patches(batch.views[:, 0], orders.to(batch.views.device), self.grid)

    def favoured(self, policy: Policy, batch: ImageBatch) -> Tensor:
        """The frozen model's mean predictions for the coarse views of each image, probabilities `[N, C]`."""
        views = self.coarse_views(batch)
        return encode_views(policy, views, views[:, :0]).log_probs.exp().mean(1)
