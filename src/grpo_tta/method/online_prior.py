"""The stream prior: the running mean of ensemble predictions, guarded class by class, and weighed by the gate.

Sizes: N images of a minibatch, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from grpo_tta.engine.interface import ImageBatch, State
from grpo_tta.engine.policy import Policy
from grpo_tta.method.grpo import reference_pass
from grpo_tta.method.online_gate import gate_counts_of, smoothed_mean
from grpo_tta.method.online_settings import StreamSettings
from grpo_tta.method.types import Reference

_PRIOR = "prior."


@final
@dataclass(frozen=True)
class StreamCounts:
    """Sums over the images of a stream so far.

    Attributes:
        images, content_free: `[C]`, of the ensemble predictions, and of the mean predictions for content-free views.
        count: how many images.
    """

    images: Tensor
    content_free: Tensor
    count: float

    def add(self, reference: Reference) -> StreamCounts:
        """With N more images."""
        content_free = self.content_free
        if reference.content_free is not None:
            content_free = content_free + reference.content_free.exp().sum(0)
        return StreamCounts(self.images + reference.ensemble.exp().sum(0), content_free, self.count + len(reference.ensemble))

    def state(self) -> State:
        count = torch.tensor(self.count)
        return {_PRIOR + "images": self.images, _PRIOR + "content_free": self.content_free, _PRIOR + "count": count}


def counts_of(state: State, policy: Policy, device: torch.device) -> StreamCounts:
    """What a state holds; an empty one starts afresh."""
    if not state:
        zeros = torch.zeros(policy.classes, device=device)
        return StreamCounts(zeros, zeros, 0.0)
    images, content_free = (state[_PRIOR + key].to(device) for key in ("images", "content_free"))
    return StreamCounts(images, content_free, float(state[_PRIOR + "count"]))


def stream_prior(counts: StreamCounts, settings: StreamSettings) -> Tensor:
    """The log prior over classes, `[C]`.

    q = (sum of predictions + n0 / C) / (count + n0), and the same for the content-free views. A stream may truly hold more of
    one class than of others; content-free views show no object, so what they favour is bias. Hence the guard
    q'_c = min(q_c, max(guard * content_free_c, 1 / C)), renormalised: a class that is merely frequent is not held back for it.
    """
    n0 = settings.pseudo_images
    prior = smoothed_mean(counts.images, counts.count, n0)
    if settings.guard is not None:
        content_free = smoothed_mean(counts.content_free, counts.count, n0)
        prior = torch.minimum(prior, (settings.guard * content_free).clamp_min(1 / len(prior)))
    return (prior / prior.sum()).log()


def with_stream_prior(
    policy: Policy, batch: ImageBatch, reference: Reference, settings: StreamSettings, state: State
) -> tuple[Reference, State]:
    """The reference with the prior of the stream up to this minibatch, and what the stream carries of it.

    Where a gate weighs the prior, its logarithm is multiplied by the weight: 0 leaves no prior at all.

    Args:
        reference: of the model whose predictions make the running mean.
        state: as it came with the minibatch; an empty one starts afresh.
    """
    device = batch.views.device
    counts = counts_of(state, policy, device).add(reference)
    prior, kept = stream_prior(counts, settings), counts.state()
    if settings.gate is not None:
        frozen = reference_pass(policy, batch.encoded, settings.grpo).ensemble if settings.on_policy else reference.ensemble
        seen = gate_counts_of(state, policy, device).add(policy, batch, settings.gate, frozen)
        prior, kept = seen.weight(settings.gate, settings.pseudo_images) * prior, kept | seen.state()
    return replace(reference, stream=prior.expand(len(reference.ensemble), -1)), kept
