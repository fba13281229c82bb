"""One episode, top to bottom: reference pass -> group -> rewards -> advantages -> policy steps -> prediction.

GRPO-TTA (arXiv 2605.03403) with GRPO's objective (arXiv 2402.03300). It is implemented without access to the paper's equations
and not verified against them, so the rewards and the settings are this project's own (see `rewards`, `settings`). The classes
can be enumerated, so KL is exact. Every image of the batch has its own parameters, so a batch of B images is B separate
episodes that share nothing but the passes through the frozen model.

With one step from pi_old = pi_0 the ratio is 1, and clip and KL are inert: a policy gradient with a group baseline. The first
step of `Target` is distillation towards softmax(r / temperature).

Nothing here receives a label.

Sizes: B images, V views, P content-free views, M selected views, C classes, K candidates, T tokens, W token width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from grpo_tta.backbones.base import Backbone
from grpo_tta.engine.distributions import kl_divergence, log_mean_probs, mean_over_views, take_views, weighted_log_mean
from grpo_tta.engine.interface import Adaptation, Cost, EncodedViews, ImageBatch, Method, State
from grpo_tta.engine.loop import Params, gradient_of, gradient_steps
from grpo_tta.engine.parameters import TunableParameters
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError
from grpo_tta.images.seeds import ImageNoise
from grpo_tta.method.objective import clipped_objective, rewards_differ
from grpo_tta.method.settings import GRPOSettings, Steps
from grpo_tta.method.trust import TrustRegion
from grpo_tta.method.types import Episode, Reference, ScoredGroup, StepStatistics, Updated


def adapt(
    policy: Policy, encoded: EncodedViews, settings: GRPOSettings, *, image_ids: Sequence[str] = (), seed: int = 0
) -> Adaptation:
    """Adapts to B images, each alone, and predicts.

    Args:
        policy: frozen backbone and class prompts; never modified.
        encoded: the frozen model's pass over views and content-free views, with the tokens at the first tuned block.
        settings: of the method.
        image_ids, seed: name the noise of a group rule that samples.

    Raises:
        UserError: settings that do not fit the model, or a part of the user's own that returns something unusable.
    """
    return answer(policy, encoded, settings, update(policy, encoded, settings, image_ids, seed))


def answer(policy: Policy, encoded: EncodedViews, settings: GRPOSettings, done: Updated) -> Adaptation:
    """The adapted model's answer, and what it cost."""
    tunable, reference = done.tunable, done.scored.reference
    tokens = encoded.tokens[tunable.first_block]  # [B, V + P, T, W]

    after = predict(policy, tokens, reference, settings, tunable, done.params)
    share, M = tunable.share_of(policy.backbone), reference.view_mask.sum(1)  # [B]
    P = encoded.log_probs.shape[1] - encoded.views
    again = (settings.steps.count + done.trials) * M + settings.predict.passes(reference)
    cost = Cost(reference.views_read + P + share * again, share * settings.steps.count * M)
    return Adaptation(encoded.log_probs[:, 0], after, cost, Episode(done.scored, done.steps))


def update(policy: Policy, encoded: EncodedViews, settings: GRPOSettings, image_ids: Sequence[str], seed: int) -> Updated:
    """Everything up to the prediction: policy steps on the selected views, from the cached tokens."""
    reference = reference_pass(policy, encoded, settings)
    scored = score_candidates(reference, settings, ImageNoise(seed, tuple(image_ids)))
    tunable = settings.tune(policy.backbone)
    tokens = take_views(encoded.tokens[tunable.first_block], reference.views)  # [B, M, T, W]
    trust = TrustRegion(policy, tokens, tunable, reference.log_probs, settings.steps.max_kl)
    params, steps = policy_steps(policy, tokens, scored, settings.steps, tunable, trust)
    return Updated(scored, tunable, params, steps, trust.trials)


def reference_pass(policy: Policy, encoded: EncodedViews, settings: GRPOSettings) -> Reference:
    """What the frozen model says about the selected views and the content-free ones; no gradient."""
    V = encoded.views
    views, view_mask = views_needed(encoded.log_probs[:, :V], settings)  # [B, V, C], [B, V]
    selected = settings.weighting.select(views)  # [B, M]
    log_probs, mask = take_views(views, selected), take_views(view_mask, selected)  # [B, M, C], [B, M]
    weights = settings.weighting(log_probs, mask)  # [B, M]
    ensemble = weighted_log_mean(log_probs, weights)  # [B, C]
    content_free = encoded.log_probs[:, V:]  # [B, P, C]
    prior = log_mean_probs(content_free) if content_free.shape[1] else None  # [B, C]
    return Reference(
        log_probs, selected, mask, view_mask.sum(1), weights, ensemble, prior, policy.directions(policy.text_features)
    )


def views_needed(views: Tensor, settings: GRPOSettings) -> tuple[Tensor, Tensor]:
    """The views that any image needs, and which of them each image needs: `[B, V, C]` -> the same, bool `[B, V]`."""
    if settings.early_exit is None:
        return views, torch.ones(views.shape[:2], dtype=torch.bool, device=views.device)
    view_mask = settings.early_exit.view_mask(views)
    most = int(view_mask.sum(1).max())
    return views[:, :most], view_mask[:, :most]


def score_candidates(reference: Reference, settings: GRPOSettings, noise: ImageNoise) -> ScoredGroup:
    """Group, rewards and advantages; no gradient, no step. An online method adds its stream prior to the reference first.

    Raises:
        UserError: a part of the user's own returns another shape than `[B, M, K]`, or numbers that are not finite.
    """
    group = settings.group(reference, noise)
    rewards = checked("reward", settings.reward(reference, group), group.mask)  # [B, M, K]
    advantages = checked("advantage", settings.advantage(rewards, group), group.mask)  # [B, M, K]
    # equal rewards are no reason for a step, and neither is what a view that was not read would have said
    counts = group.mask & rewards_differ(rewards, group.mask) & reference.view_mask[..., None]
    advantages = torch.where(counts, advantages, 0.0)
    return ScoredGroup(reference, group, rewards, advantages, update_mask=(advantages != 0).flatten(1).any(1))


def checked(what: str, values: Tensor, mask: Tensor) -> Tensor:
    """Rewards or advantages, zero where masked."""
    if values.shape != mask.shape or not torch.isfinite(values.masked_fill(~mask, 0.0)).all():
        shapes = f"{tuple(mask.shape)}, not {tuple(values.shape)}"
        raise UserError(f"The {what} must be finite numbers of the group's shape [B, M, K] {shapes}.")
    return values.masked_fill(~mask, 0.0)


def grpo_objective(new: Tensor, scored: ScoredGroup, steps: Steps) -> tuple[Tensor, Tensor, Tensor]:
    """sum_M w_v mean_K min(rho A, clip(rho) A) - beta KL(pi_theta || pi_0), of each image, to be maximised.

    Args:
        new: `[B, M, C]`, log pi_theta, carries the gradient.

    Returns:
        The objective, its KL and the share of clipped ratios, `[B]` each.
    """
    reference, group = scored.reference, scored.group
    surrogate, clipped = clipped_objective(group.gather(new), group, scored.advantages, steps.clip)  # [B, M]
    kl = mean_over_views(kl_divergence(new, reference.log_probs), reference.view_mask)  # [B]
    objective = (reference.weights * surrogate).sum(1) - steps.kl * kl
    return objective, kl.detach(), mean_over_views(clipped, reference.view_mask)


def policy_steps(
    policy: Policy, tokens: Tensor, scored: ScoredGroup, steps: Steps, tunable: TunableParameters, trust: TrustRegion
) -> tuple[Params, tuple[StepStatistics, ...]]:
    """Clipped, KL-regularised ascent from tokens `[B, M, T, W]`: the adapted parameters, and what each step did."""
    before: list[tuple[Tensor, ...]] = []
    norms: list[Tensor] = []

    def objective(params: Mapping[str, Tensor]) -> Tensor:
        new = policy.adapted(tokens, tunable, params)  # [B, M, C]
        value, kl, clipped = grpo_objective(new, scored, steps)
        before.append((value.detach(), kl, clipped, scored.group.gather(new).detach()))
        return value

    start = tunable.start(len(tokens))
    params = gradient_steps(
        start,
        gradient_of(objective),
        steps.optimizer.start(),
        steps.count,
        update_mask=scored.update_mask,
        limit=trust,
        watch=norms.append,
    )
    did = zip(before, norms, strict=True)
    return params, tuple(StepStatistics(value, kl, clipped, norm, new) for (value, kl, clipped, new), norm in did)


@torch.no_grad()
def predict(
    policy: Policy,
    tokens: Tensor,
    reference: Reference,
    settings: GRPOSettings,
    tunable: TunableParameters,
    params: Mapping[str, Tensor],
) -> Tensor:
    """The adapted model's answer in log-probabilities `[B, C]`, from all tokens `[B, V + P, T, W]`."""
    chosen = take_views(tokens, settings.predict.select(reference))  # [B, n, T, W]
    return settings.predict(policy.adapted(chosen, tunable, params), reference, settings.weighting)


def adapted_features(
    policy: Policy, encoded: EncodedViews, settings: GRPOSettings, *, image_ids: Sequence[str] = (), seed: int = 0
) -> Tensor:
    """Features of view 0 by the adapted model, `[B, D]` of unit length. Arguments and errors as for `adapt`."""
    return features_of_view0(policy, encoded, update(policy, encoded, settings, image_ids, seed))


def features_of_view0(policy: Policy, encoded: EncodedViews, done: Updated) -> Tensor:
    """Features of view 0 by the adapted model, `[B, D]` of unit length."""
    tokens = encoded.tokens[done.tunable.first_block][:, :1]  # [B, 1, T, W]
    with torch.no_grad():
        return policy.directions(policy.scaled(policy.adapted_features(tokens, done.tunable, done.params)[:, 0]))


def grpo_method(settings: GRPOSettings, name: str = "grpo-tta") -> Method:
    """GRPO-TTA with these settings, as a method beside others.

    Raises:
        UserError: the settings need a stream.
    """
    settings.check_episodic()

    def cached_blocks(backbone: Backbone) -> Sequence[int]:
        return (settings.tune(backbone).first_block,)

    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return adapt(policy, batch.encoded, settings, image_ids=batch.image_ids, seed=batch.seed), state

    V, P = settings.views.views, settings.views.content_free
    return Method(name, "episodic", "own", V, P, settings, cached_blocks, run, early_exit=settings.early_exit)
