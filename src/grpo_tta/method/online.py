"""GRPO-TTA beyond one image: one set of parameters for a batch (forgotten after it) or for a whole stream.

The policy step is that of `grpo`, shared: the tuned parameters are one set for all images of a minibatch, moved on the mean of
their objectives, drawn back towards the frozen model after each step. The dispersion reward is the *stream prior* (see
`online_prior`).

The step is *on-policy*: pi_old, the group, the ensemble prediction and the running mean come from the current model. Its pass
over the minibatch gives the answers, and on a few of the views it also carries the gradient of the first step. So the frozen
model reads view 0 alone, for the zero-shot answer, and coarse content-free views. With more than one step per minibatch the
ratio leaves 1 and the clip acts. The KL, from the frozen model, acts from the second minibatch on.

The gate's weight of the prior is also that of the step, where it is above zero: without dispersion a stream learns nothing.
Nor does it where the model is as far from the frozen one as it may go, or has become less sure than it by so much. Where the
images change their look (see `online_shift`), all that was learnt is forgotten.

Sizes: N images of a minibatch, V views, n views that carry the gradient, C classes, T tokens, W token width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from grpo_tta.backbones.base import Backbone
from grpo_tta.engine.distributions import kl_divergence, relative_entropy
from grpo_tta.engine.encode import tokens_at
from grpo_tta.engine.interface import (
    Adaptation,
    Cost,
    EncodedViews,
    ImageBatch,
    Method,
    State,
    by_minibatches,
    no_cached_blocks,
)
from grpo_tta.engine.loop import gradient_of, gradient_steps
from grpo_tta.engine.optim import load_shared, save_shared
from grpo_tta.engine.policy import Policy
from grpo_tta.images.seeds import ImageNoise
from grpo_tta.method.grpo import grpo_objective, reference_pass, score_candidates
from grpo_tta.method.online_prior import with_stream_prior
from grpo_tta.method.online_settings import StreamSettings
from grpo_tta.method.online_shift import watched_of
from grpo_tta.method.types import Reference


@final
@dataclass(frozen=True)
class StreamTrace:
    """What the last step of a minibatch was taken from, per image.

    Attributes:
        kl: KL(pi_theta || pi_0) on view 0 as the image was answered or, with an answer after the step, before it; `[N]`.
        clipped: share of clipped ratios at the last step, `[N]`; None without a step.
    """

    kl: Tensor
    clipped: Tensor | None

    def columns(self) -> Mapping[str, Sequence[Any]]:
        columns: dict[str, Sequence[Any]] = {"kl": self.kl.tolist()}
        return columns if self.clipped is None else columns | {"clipped": self.clipped.tolist()}


def stream_step(policy: Policy, batch: ImageBatch, settings: StreamSettings, state: State) -> tuple[Adaptation, State]:
    """Adapts the shared parameters to one minibatch of N images and predicts them; an empty state starts afresh."""
    state, watched = begun_afresh(state, batch.views[:, 0], settings)
    grpo, encoded = settings.grpo, batch.encoded
    (N, V), count = batch.views.shape[:2], grpo.steps.count
    n = min(settings.gradient_views, V)
    tunable = grpo.tune(policy.backbone)
    start, update = tunable.start(1), grpo.steps.optimizer.start()
    params = load_shared(state, start, update)
    tokens = tokens_at(policy.backbone, batch.views, tunable.first_block)  # [N, V, T, W]

    def adapted(params: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
        """The minibatch's views are to the backbone the views of a single image: `[N, m, T, W]` -> `[N, m, C]`."""
        return policy.adapted(tokens.flatten(0, 1)[None], tunable, params)[0].unflatten(0, (N, -1))

    # the current model's pass over all views: on the first n its gradient is that of the first step
    with torch.set_grad_enabled(count > 0):
        learning = adapted(params, tokens[:, :n])  # [N, n, C]
    now = learning.detach()
    if n < V:
        with torch.no_grad():
            now = torch.cat([now, adapted(params, tokens[:, n:])], dim=1)  # [N, V, C]

    # group, rewards and advantages, from the current model's views and the prior of the stream up to this minibatch
    rewarding = now if settings.on_policy else encoded.log_probs[:, :V]
    reference = reference_pass(policy, EncodedViews(encoded.features, rewarding, {}, V), grpo)
    reference, weight, prior = with_stream_prior(policy, batch, reference, settings, state)
    scored = score_candidates(first_views(reference, settings), grpo, ImageNoise(batch.seed, batch.image_ids))

    # pi_old stays in the group; pi_0, from which the KL is measured, is the frozen model's
    if grpo.steps.kl:
        scored = replace(scored, reference=replace(scored.reference, log_probs=encoded.log_probs[:, :n]))
    first, clipped = [learning], []

    def objective(params: Mapping[str, Tensor]) -> Tensor:
        value, _, share = grpo_objective(first.pop() if first else adapted(params, tokens[:, :n]), scored, grpo.steps)
        clipped.append(share)
        return value.mean()

    moved = gradient_steps(params, gradient_of(objective), update, count, update_mask=scored.update_mask.any()[None])
    # where the gate takes the dispersion away, alignment alone would only follow the stream's favourites
    kl = kl_divergence(now[:, 0], encoded.log_probs[:, 0])  # [N]
    rise = (relative_entropy(now[:, 0]) - relative_entropy(encoded.log_probs[:, 0])).mean()
    length = weight.clamp_min(0.0) * room_left(kl.mean(), settings.max_kl) * room_left(rise, settings.max_rise)
    probes = settings.step_kl is not None and count > 0
    if probes:
        with torch.no_grad():
            went = kl_divergence(now[:, 0], adapted(moved, tokens[:, :1])[:, 0]).mean()
        length = length * step_share(went, settings.step_kl)
    params = {name: value.detach().lerp(moved[name].detach(), length) for name, value in params.items()}

    again = settings.answer_after and count > 0
    with torch.no_grad():
        after = grpo.predict(adapted(params, tokens) if again else now, reference, grpo.weighting)
    share = tunable.share_of(policy.backbone)
    passes = V + share * (n * max(count - 1, 0) + probes + V * again)
    coarse = 0 if settings.gate is None else settings.gate.views
    cost = Cost(encoded.log_probs.shape[1] + coarse + passes, share * count * n)
    trace = StreamTrace(kl, clipped[-1] if clipped else None)
    adaptation = Adaptation(encoded.log_probs[:, 0], after, cost, trace)
    if settings.protocol == "batch":
        return adaptation, {}
    return adaptation, save_shared(anchored(params, start, settings.anchor), update) | prior | watched


def begun_afresh(state: State, views: Tensor, settings: StreamSettings) -> tuple[State, State]:
    """The state to begin this minibatch with, empty where its look has changed, and what the alarm carries on.

    Args:
        views: view 0 of its images, `[N, 3, S, S]`.
    """
    if settings.alarm is None:
        return state, {}
    changed, watched = settings.alarm(views, watched_of(state))
    return {} if changed else state, watched.state()


def room_left(way: Tensor, bound: float | None) -> Tensor:
    """The share of a step that is taken: 1 up to half of the bound, 0 from the bound on, linear between."""
    return torch.ones_like(way) if bound is None else (2 - 2 * way / bound).clamp(0.0, 1.0)


def step_share(kl: Tensor, step_kl: float | None) -> Tensor:
    """The share of a step of this KL that is taken: a KL grows with the square of a short step."""
    return torch.ones_like(kl) if step_kl is None else (step_kl / kl.clamp_min(1e-12)).sqrt().clamp(max=1.0)


def first_views(reference: Reference, settings: StreamSettings) -> Reference:
    """The views that carry the gradient alone, weighed among themselves. The ensemble prediction stays that of all views."""
    n = settings.gradient_views
    log_probs, mask = reference.log_probs[:, :n], reference.view_mask[:, :n]
    weights = settings.grpo.weighting(log_probs, mask)
    return replace(reference, log_probs=log_probs, views=reference.views[:, :n], view_mask=mask, weights=weights)


def anchored(params: Mapping[str, Tensor], start: Mapping[str, Tensor], anchor: float) -> dict[str, Tensor]:
    """Parameters a share of the way back to where they started."""
    return {name: value.detach().lerp(start[name].detach(), anchor) for name, value in params.items()}


def stream_method(settings: StreamSettings, name: str) -> Method:
    """`grpo-tta-online` or `grpo-tta-batch`, by the settings' protocol."""
    grpo = settings.grpo

    def checked_blocks(backbone: Backbone) -> Sequence[int]:
        grpo.tune(backbone)  # refuses what the model cannot tune
        return no_cached_blocks(backbone)

    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return by_minibatches(
            lambda some, state: stream_step(policy, some, settings, state), batch, settings.update_size, state
        )

    V, P = grpo.views.views, grpo.views.content_free
    return Method(name, settings.protocol, "own", V, P, settings, checked_blocks, run, frozen_views=settings.frozen_views)
