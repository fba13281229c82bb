"""GRPO-TTA beyond one image: one set of parameters for a batch (forgotten after it) or for a whole stream.

The policy step is that of `grpo`, shared: the tuned parameters are one set for all images of a minibatch, moved on the mean of
their objectives, drawn back towards the frozen model after each step. The dispersion reward is the *stream prior* (see
`online_prior`).

There are two forms. With *frozen* rewards, all but the step is computed from the frozen model, as in an episode. *On-policy*,
pi_old, the group, the ensemble prediction and the running mean come from the current model. Its pass over the minibatch also
carries the gradient of the first step. The frozen model stays as pi_0 of the KL, and as the way back. With more than one step
per minibatch the ratio leaves 1 and the clip acts. The KL acts from the second minibatch on.

Sizes: N images of a minibatch, V views, P content-free views, M selected views, C classes, T tokens, W token width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from grpo_tta.backbones.base import Backbone
from grpo_tta.engine.distributions import take_views
from grpo_tta.engine.interface import Adaptation, Cost, EncodedViews, ImageBatch, Method, State, by_minibatches
from grpo_tta.engine.loop import gradient_of, gradient_steps
from grpo_tta.engine.optim import load_shared, save_shared
from grpo_tta.engine.policy import Policy
from grpo_tta.images.seeds import ImageNoise
from grpo_tta.method.grpo import grpo_objective, reference_pass, score_candidates
from grpo_tta.method.online_prior import with_stream_prior
from grpo_tta.method.online_settings import StreamSettings


def stream_step(policy: Policy, batch: ImageBatch, settings: StreamSettings, state: State) -> tuple[Adaptation, State]:
    """Adapts the shared parameters to one minibatch of N images and predicts them; an empty state starts afresh.

    Rewards are those of the frozen model.
    """
    grpo, encoded = settings.grpo, batch.encoded
    N = len(batch.image_ids)

    # the prior: what the frozen model has predicted so far, this minibatch included
    reference, prior = with_stream_prior(policy, batch, reference_pass(policy, encoded, grpo), settings, state)
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
    read = encoded.log_probs.shape[1] + _coarse(settings)
    cost = Cost(read + share * (grpo.steps.count + 1) * M, share * grpo.steps.count * M)
    adaptation = Adaptation(encoded.log_probs[:, 0], after, cost)
    if settings.protocol == "batch":
        return adaptation, {}
    return adaptation, save_shared(anchored(params, start, settings.anchor), update) | prior


def on_policy_step(policy: Policy, batch: ImageBatch, settings: StreamSettings, state: State) -> tuple[Adaptation, State]:
    """The same with the rewards of the current model."""
    grpo, encoded = settings.grpo, batch.encoded
    N, V, count = len(batch.image_ids), encoded.views, grpo.steps.count
    tunable = grpo.tune(policy.backbone)
    start, update = tunable.start(1), grpo.steps.optimizer.start()
    params = load_shared(state, start, update)
    everything = torch.arange(V, device=batch.views.device).expand(N, V)

    def adapted(params: Mapping[str, Tensor], views: Tensor) -> Tensor:
        tokens = shared_tokens(encoded, tunable.first_block, views)  # [1, N * n, T, W]
        return policy.adapted(tokens, tunable, params)[0].unflatten(0, (N, -1))  # [N, n, C]

    # the current model's pass over all views: its gradient is that of the first step
    with torch.set_grad_enabled(count > 0):
        now = adapted(params, everything)  # [N, V, C]
    # content-free views are the frozen model's: they say what it favours where there is no object
    seen = torch.cat([now.detach(), encoded.log_probs[:, V:]], dim=1)  # [N, V + P, C]
    reference = reference_pass(policy, EncodedViews(encoded.features, seen, encoded.tokens, V), grpo)
    reference, prior = with_stream_prior(policy, batch, reference, settings, state)
    scored = score_candidates(reference, grpo, ImageNoise(batch.seed, batch.image_ids))

    # pi_old stays in the group; pi_0, from which the KL is measured, is the frozen model's
    pi_0 = take_views(encoded.log_probs, reference.views)  # [N, M, C]
    judged = replace(scored, reference=replace(reference, log_probs=pi_0))
    first = [take_views(now, reference.views)]

    def objective(params: Mapping[str, Tensor]) -> Tensor:
        new = first.pop() if first else adapted(params, reference.views)  # [N, M, C]
        return grpo_objective(new, judged, grpo.steps)[0].mean()

    params = gradient_steps(params, gradient_of(objective), update, count, update_mask=scored.update_mask.any()[None])

    again = settings.answer_after and count > 0
    with torch.no_grad():
        answering = adapted(params, reference.views) if again else take_views(now.detach(), reference.views)
        after = grpo.predict(answering, reference, grpo.weighting)
    M, share = reference.views.shape[1], tunable.share_of(policy.backbone)
    passes = V + M * (max(count - 1, 0) + again)
    cost = Cost(encoded.log_probs.shape[1] + _coarse(settings) + share * passes, share * count * M)
    adaptation = Adaptation(encoded.log_probs[:, 0], after, cost)
    if settings.protocol == "batch":
        return adaptation, {}
    return adaptation, save_shared(anchored(params, start, settings.anchor), update) | prior


def _coarse(settings: StreamSettings) -> int:
    """Passes over coarse content-free views."""
    return 0 if settings.gate is None else settings.gate.views


def anchored(params: Mapping[str, Tensor], start: Mapping[str, Tensor], anchor: float) -> dict[str, Tensor]:
    """Parameters a share of the way back to where they started."""
    return {name: value.detach().lerp(start[name].detach(), anchor) for name, value in params.items()}


def shared_tokens(encoded: EncodedViews, first_block: int, selected: Tensor) -> Tensor:
    """Tokens of the selected views of all N images, as views of one: `[1, N * M, T, W]`."""
    return take_views(encoded.tokens[first_block], selected).flatten(0, 1)[None]


def stream_method(settings: StreamSettings, name: str) -> Method:
    """`grpo-tta-stream`, `grpo-tta-online` or `grpo-tta-batch`, by the settings' form and protocol."""
    grpo = settings.grpo
    step = on_policy_step if settings.on_policy else stream_step

    def cached_blocks(backbone: Backbone) -> Sequence[int]:
        return (grpo.tune(backbone).first_block,)

    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return by_minibatches(lambda some, state: step(policy, some, settings, state), batch, settings.update_size, state)

    views = grpo.views
    return Method(name, settings.protocol, "own", views.views, views.content_free, settings, cached_blocks, run)
