"""The stream prior: the running mean of ensemble predictions. The gate divides it out as bias, or multiplies it in as truth.

Sizes: N images of a minibatch, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from grpo_tta.engine.distributions import relative_entropy
from grpo_tta.engine.interface import ImageBatch, State
from grpo_tta.engine.policy import Policy
from grpo_tta.method.online_gate import Evidence
from grpo_tta.method.online_settings import StreamSettings
from grpo_tta.method.types import Reference

_PRIOR = "prior."


@final
@dataclass(frozen=True)
class StreamCounts:
    """Sums over the images of a stream so far.

    Attributes:
        images: `[C]`, of the ensemble predictions.
        coarse: `[C]`, of the frozen model's mean predictions for coarse content-free views; zero without a gate.
        entropy: `[]`, of the relative entropies of the ensemble predictions.
        count: how many images.
    """

    images: Tensor
    coarse: Tensor
    entropy: Tensor
    count: float

    def add(self, policy: Policy, batch: ImageBatch, ensemble: Tensor, settings: StreamSettings) -> StreamCounts:
        """With N more images, whose ensemble predictions are `[N, C]` log-probabilities."""
        coarse = self.coarse if settings.gate is None else self.coarse + settings.gate.favoured(policy, batch).sum(0)
        unsure = self.entropy + relative_entropy(ensemble).sum()
        return StreamCounts(self.images + ensemble.exp().sum(0), coarse, unsure, self.count + len(ensemble))

    def state(self) -> State:
        count = torch.tensor(self.count)
        held = {"images": self.images, "coarse": self.coarse, "entropy": self.entropy, "count": count}
        return {_PRIOR + name: value for name, value in held.items()}


def counts_of(state: State, policy: Policy, device: torch.device) -> StreamCounts:
    """What a state holds; an empty one starts afresh."""
    if not state:
        zeros = torch.zeros(policy.classes, device=device)
        return StreamCounts(zeros, zeros, zeros.sum(), 0.0)
    images, coarse, entropy = (state[_PRIOR + key].to(device) for key in ("images", "coarse", "entropy"))
    return StreamCounts(images, coarse, entropy, float(state[_PRIOR + "count"]))


def smoothed_mean(sums: Tensor, count: float, pseudo_images: float) -> Tensor:
    """(sums + n0 / C) / (count + n0), `[C]`: the mean of `count` predictions, and of n0 uniform ones before them."""
    return (sums + pseudo_images / len(sums)) / (count + pseudo_images)


def stream_prior(counts: StreamCounts, settings: StreamSettings) -> tuple[Tensor, Tensor]:
    """The log prior over classes, log q `[C]`, and the gate's weight w from -1 to 1, without a dimension.

    q = (sum of predictions + n0 / C) / (count + n0).
    """
    prior = smoothed_mean(counts.images, counts.count, settings.pseudo_images)
    if settings.gate is None:
        return prior.log(), prior.new_ones(())
    coarse = smoothed_mean(counts.coarse, counts.count, settings.pseudo_images)
    return prior.log(), settings.gate(Evidence(prior, coarse, counts.entropy / counts.count, counts.count))


def with_stream_prior(
    policy: Policy, batch: ImageBatch, reference: Reference, settings: StreamSettings, state: State
) -> tuple[Reference, Tensor, State]:
    """The reference with the prior of the stream up to this minibatch, w log q; the weight w; and what the stream carries.

    Args:
        reference: of the model whose predictions make the running mean.
        state: as it came with the minibatch; an empty one starts afresh.
    """
    counts = counts_of(state, policy, batch.views.device).add(policy, batch, reference.ensemble, settings)
    prior, weight = stream_prior(counts, settings)
    return replace(reference, stream=(weight * prior).expand(len(reference.ensemble), -1)), weight, counts.state()
