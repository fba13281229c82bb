"""Whether a stream's imbalance is bias of the model or truth, by coarse content-free views; and how far to divide it out.

A shifted model answers with its favourite classes whatever it sees. In coarse content-free views the objects are in pieces, so
these favourites stand out at least as much as in the images themselves. Where a stream truly holds more of some classes, these
stand out in its images, and less in pieces of them. So the gate asks: along the direction in which the stream's mean prediction
leans, how far do content-free views lean? It has to be surer the further the stream leans, as a favourite of the model takes a
part of the answers and the only class of a stream takes nearly all of them; and surer while few images were seen.

Sizes: N images of a minibatch, P coarse views, C classes, S pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from grpo_tta.config.checks import check_at_least
from grpo_tta.engine.encode import encode_views
from grpo_tta.engine.interface import ImageBatch
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError
from grpo_tta.images.seeds import image_generator
from grpo_tta.images.views import shuffle_patches


@final
@dataclass(frozen=True)
class BiasGate:
    """The weight of the stream prior: min(1, max(0, (margin - low) / (high - low))).

    With q the stream's mean prediction and g that of its coarse content-free views, slope = <l(q), l(g)> / <l(q), l(q)>, where
    l(p) = log p less its mean over classes. It is the slope of the regression of l(g) on l(q). lean = KL(q || uniform) in nats.
    Neither changes where every label is listed twice. With n images seen, margin = slope - doubt * lean - early / n.

    Attributes:
        low, high: margins at which the prior is left out, and divided out all the way.
        doubt: how much more slope a stream needs per nat that it leans.
        early: how much more slope the first image would need; n images need 1 / n of it.
        views: P, coarse content-free views of each image.
        grid: view 0 is divided into grid x grid patches. In a fine grid nothing is left of an object, and every model leans
            somewhere.
    """

    low: float = 0.8
    high: float = 0.9
    doubt: float = 0.75
    early: float = 8.0
    views: int = 2
    grid: int = 4

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise UserError(f"The gate opens between low and high; low must be below high, not {self.low} and {self.high}.")
        check_at_least("doubt", self.doubt, 0)
        check_at_least("early", self.early, 0)
        check_at_least("views", self.views, 1)
        check_at_least("grid", self.grid, 2)

    def __call__(self, images: Tensor, coarse: Tensor, count: float) -> Tensor:
        """From 0 to 1, without a dimension. 0 where the stream does not lean at all.

        Args:
            images, coarse: mean predictions of the stream so far for its images and their coarse views, `[C]` each.
            count: n, how many images these are, above 0.
        """
        leaning, favoured = (p.log() - p.log().mean() for p in (images, coarse))
        slope = (leaning * favoured).sum() / leaning.square().sum().clamp_min(1e-12)
        lean = (images * (images * len(images)).log()).sum()
        margin = slope - self.doubt * lean - self.early / count
        return ((margin - self.low) / (self.high - self.low)).clamp(0.0, 1.0)

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
