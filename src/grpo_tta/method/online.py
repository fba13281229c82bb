"""GRPO-TTA beyond one image: one set of parameters for a batch (forgotten after it) or for a whole stream.

The policy step is that of `grpo`, shared: the tuned parameters are one set for all images of a minibatch, moved on the mean of
their objectives, drawn back towards the frozen model after each step. The dispersion reward is the *stream prior*, the running
mean of the frozen model's ensemble predictions. It assumes a stream in which no class is all there is, so it is guarded (see
`stream_prior`).

Sizes: N images of a minibatch, M views, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from torch import Tensor

from grpo_tta.backbones.base import Backbone
from grpo_tta.config.checks import check_at_least, check_choice, check_positive, check_share
from grpo_tta.engine.distributions import take_views
from grpo_tta.engine.interface import Adaptation, Cost, EncodedViews, ImageBatch, Method, State, by_minibatches
from grpo_tta.engine.loop import gradient_of, gradient_steps
from grpo_tta.engine.optim import load_shared, save_shared
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError
from grpo_tta.images.seeds import ImageNoise
from grpo_tta.method.grpo import grpo_objective, reference_pass, score_candidates
from grpo_tta.method.settings import ALONG_A_STREAM, GRPOSettings
from grpo_tta.method.types import Reference

_PRIOR = "prior."


@final
@dataclass(frozen=True)
class StreamSettings:
    """
    Attributes:
        grpo: the episode's settings, with the stream prior in reward and prediction.
        update_size: images of a step.
        anchor: share of the way back to the frozen model after each minibatch.
        pseudo_images: how many images' worth of a uniform prior the running mean starts with.
        guard: a class is held back at most `guard` times as much as the content-free views favour it; None for no
            guard.
        protocol: `online` carries parameters and prior along the stream; `batch` forgets both after each minibatch.
    """

    grpo: GRPOSettings = ALONG_A_STREAM
    update_size: int = 32
    anchor: float = 0.01
    pseudo_images: float = 16.0
    guard: float | None = 1.0
    protocol: Literal["batch", "online"] = "online"

    def __post_init__(self) -> None:
        check_at_least("update_size", self.update_size, 1)
        check_share("anchor", self.anchor)
        check_positive("pseudo_images", self.pseudo_images)
        check_choice("protocol", self.protocol, ("batch", "online"))
        if self.guard is not None:
            check_positive("guard", self.guard)
        if self.grpo.early_exit is not None:
            raise UserError("A stream reads all views of every image; set early_exit to None.")
        if self.grpo.steps.max_kl is not None:
            raise UserError("A stream has no bound on the KL of a step; set max_kl to None.")
        if self.guard is not None and self.grpo.views.content_free == 0:
            raise UserError("The guard needs content-free views; set views.content_free to at least 1, or guard to None.")


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
    C, n0 = len(counts.images), settings.pseudo_images
    prior = (counts.images + n0 / C) / (counts.count + n0)
    if settings.guard is not None:
        content_free = (counts.content_free + n0 / C) / (counts.count + n0)
        prior = torch.minimum(prior, (settings.guard * content_free).clamp_min(1 / C))
    return (prior / prior.sum()).log()


def stream_step(policy: Policy, batch: ImageBatch, settings: StreamSettings, state: State) -> tuple[Adaptation, State]:
    """Adapts the shared parameters to one minibatch of N images and predicts them; an empty state starts afresh."""
    grpo, encoded = settings.grpo, batch.encoded
    N = len(batch.image_ids)

    # the prior: what the frozen model has predicted so far, this minibatch included
    reference = reference_pass(policy, encoded, grpo)
    counts = counts_of(state, policy, batch.views.device).add(reference)
    reference = replace(reference, stream=stream_prior(counts, settings).expand(N, -1))
    scored = score_candidates(reference, grpo, ImageNoise(batch.seed, batch.image_ids))

    # policy steps on shared parameters: to the backbone, the minibatch's views are the views of a single image
    tunable = grpo.tune(policy.backbone)
    together = shared_tokens(encoded, tunable.first_block, reference.views)  # [1, N * M, T, W]
    start, update = tunable.start(1), grpo.steps.optimizer.start()

    def adapted(params: Mapping[str, Tensor]) -> Tensor:
        return policy.adapted(together, tunable, params)[0].unflatten(0, (N, -1))  # [N, M, C]

    params = gradient_steps(
        load_shared(state, start, update),
        gradient_of(lambda params: grpo_objective(adapted(params), scored, grpo.steps)[0].mean()),
        update,
        grpo.steps.count,
        update_mask=scored.update_mask.any()[None],
    )

    # predict with the moved parameters and the same prior
    with torch.no_grad():
        after = grpo.predict(adapted(params), reference, grpo.weighting)
    M, share = reference.views.shape[1], tunable.share_of(policy.backbone)
    cost = Cost(encoded.log_probs.shape[1] + share * (grpo.steps.count + 1) * M, share * grpo.steps.count * M)
    adaptation = Adaptation(encoded.log_probs[:, 0], after, cost)
    if settings.protocol == "batch":
        return adaptation, {}
    anchored = {name: value.detach().lerp(start[name].detach(), settings.anchor) for name, value in params.items()}
    return adaptation, save_shared(anchored, update) | counts.state()


def shared_tokens(encoded: EncodedViews, first_block: int, selected: Tensor) -> Tensor:
    """Tokens of the selected views of all N images, as views of one: `[1, N * M, T, W]`."""
    return take_views(encoded.tokens[first_block], selected).flatten(0, 1)[None]


def stream_method(settings: StreamSettings, name: str) -> Method:
    """`grpo-tta-online` or `grpo-tta-batch`, by the settings' protocol."""
    grpo = settings.grpo

    def cached_blocks(backbone: Backbone) -> Sequence[int]:
        return (grpo.tune(backbone).first_block,)

    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return by_minibatches(
            lambda some, state: stream_step(policy, some, settings, state), batch, settings.update_size, state
        )

    views = grpo.views
    return Method(name, settings.protocol, "own", views.views, views.content_free, settings, cached_blocks, run)
