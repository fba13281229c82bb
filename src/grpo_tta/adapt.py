"""One batch of episodes, top to bottom: views -> group -> rewards -> advantages -> policy steps -> prediction.

GRPO-TTA (arXiv 2605.03403) with GRPO's objective (arXiv 2402.03300). How this differs from the paper: its formulas could
not be had, so the rewards and the settings are this project's own (see `rewards`, `settings`); the classes can be
enumerated, so KL is exact; and every image of the batch has its own parameters, so a batch of B images is B separate
episodes that share nothing but the passes through the frozen model.

Nothing here receives a label.

Sizes: B images, V views, P content-free copies, M selected views, C classes, K candidates, T tokens, W token width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from grpo_tta import objective
from grpo_tta.candidates import CandidateGroup, propose
from grpo_tta.optim import Update, within_trust
from grpo_tta.policy import Observation, Policy
from grpo_tta.rewards import Reference, combine, log_mean_probs
from grpo_tta.seeds import gumbel_noise
from grpo_tta.settings import GRPOSettings
from grpo_tta.tuning import make_plan


@final
@dataclass(frozen=True)
class StepStatistics:
    """What one policy step did, per image: every tensor is `[B]` but `log_probs` `[B, M, K]` (before the step)."""

    objective: Tensor
    kl: Tensor
    clipped: Tensor
    gradient_norm: Tensor
    log_probs: Tensor


@final
@dataclass(frozen=True)
class Cost:
    """Passes of one image through the visual encoder, in units of one full pass of one view.

    A pass through part of the blocks counts as that part. Content-free copies count as views.
    """

    forwards: float
    backwards: float = 0.0


@final
@dataclass(frozen=True)
class Episode:
    """How B predictions came about.

    Attributes:
        reference: what the frozen model said.
        selected: `[B, M]` indices of the selected views.
        group, rewards, advantages: the groups, `[B, M, K]`.
        steps: one entry per policy step.
        stepped: `[B]` bool, false where every advantage was zero and no step was taken.
    """

    reference: Reference
    selected: Tensor
    group: CandidateGroup
    rewards: Tensor
    advantages: Tensor
    steps: tuple[StepStatistics, ...]
    stepped: Tensor


@final
@dataclass(frozen=True)
class Adaptation:
    """The outcome of any method for B images.

    Attributes:
        before: `[B, C]` log-probabilities of the frozen model on view 0 (zero-shot).
        after: `[B, C]` log-probabilities of the prediction.
        cost: per image, what the method would cost alone.
        episode: the inner life of a policy-gradient method; None for others.
    """

    before: Tensor
    after: Tensor
    cost: Cost
    episode: Episode | None = None


def select_views(log_probs: Tensor, M: int) -> Tensor:
    """Indices of the M views with the lowest entropy: `[B, V, C]` -> `[B, M]` (all of them in their order if M = V)."""
    B, V, _ = log_probs.shape
    if V == M:
        return torch.arange(V, device=log_probs.device).expand(B, V)
    return objective.entropy(log_probs).topk(M, dim=1, largest=False).indices


def refer(policy: Policy, seen: Observation, M: int, stream: Tensor | None = None) -> tuple[Tensor, Reference]:
    """Selection `[B, M]` and what the frozen model said about the selected views and the copies."""
    views, copies = seen.log_probs[:, : seen.views], seen.log_probs[:, seen.views :]
    selected = select_views(views, M)
    kept = views.gather(1, selected[..., None].expand(-1, -1, policy.classes))  # [B, M, C]
    content_free = log_mean_probs(copies) if copies.shape[1] else None
    return selected, Reference(kept, log_mean_probs(kept), content_free, policy.text_features, stream)


def adapt(
    policy: Policy,
    seen: Observation,
    settings: GRPOSettings,
    *,
    image_ids: Sequence[str] = (),
    seed: int = 0,
    stream: Tensor | None = None,
) -> Adaptation:
    """Adapts to B images, each alone, and predicts.

    Args:
        policy: frozen tower and class prompts; never modified.
        seen: the frozen model's pass over views and copies, with the tokens at the plan's first block.
        settings: of the method.
        image_ids, seed: name the Gumbel noise of the group rule `sample`.
        stream: `[B, C]` log of the running mean prediction; only for an online method.

    Raises:
        UserError: settings that do not fit the model or the classes.
    """
    B = len(seen.log_probs)
    M, K = settings.selected, settings.group_size(policy.classes)
    plan = make_plan(policy.tower, settings.tuned, settings.last_blocks, settings.rank)
    tokens = seen.tokens[plan.first_block]  # [B, V + P, T, W]

    # selection, group, rewards, advantages
    selected, reference = refer(policy, seen, M, stream)
    old = reference.log_probs  # [B, M, C]
    gumbel = gumbel_noise(seed, image_ids, M, policy.classes).to(old) if settings.group == "sample" else None
    group = propose(old, K, settings.group, mass=settings.nucleus_mass, gumbel=gumbel)
    rewards = combine(settings.rewards, reference, group)  # [B, M, K]
    advantages = objective.advantages(
        rewards, group.old_log_probs, group.mask, settings.advantage, temperature=settings.target_temperature
    )
    weights = objective.candidate_weights(group.old_log_probs, group.mask, settings.weighting)
    stepped = (advantages != 0).flatten(1).any(1)  # [B]

    # policy steps on the selected views, from the cached tokens
    chosen = tokens.gather(1, selected[..., None, None].expand(-1, -1, *tokens.shape[2:]))  # [B, M, T, W]
    tuned = plan.start(B)
    update = Update(settings.optimizer, settings.learning_rate, settings.max_gradient_norm)
    steps: list[StepStatistics] = []
    trials = 0
    for _ in range(settings.steps):
        with torch.enable_grad():
            new = policy.adapted(chosen, plan, tuned)  # [B, M, C]
            surrogate, clipped = objective.clipped_objective(
                group.gather(new), group.old_log_probs, advantages, weights, settings.clip
            )
            kl = objective.kl_divergence(new, old).mean(1)  # [B]
            gain = surrogate.mean(1) - settings.kl_weight * kl
            # summed over images: every image gets the gradient it would have got alone
            gradients = torch.autograd.grad(gain.sum(), list(tuned.values()))
        moved, norm = update.ascend(tuned, gradients, stepped)
        if settings.max_kl is not None:
            moved, tried = within_trust(policy, chosen, plan, tuned, moved, old, settings.max_kl)
            trials += tried
        steps.append(StepStatistics(gain.detach(), kl.detach(), clipped.mean(1), norm, group.gather(new).detach()))
        tuned = moved

    # predict after the update, then forget
    ensemble = settings.prediction == "ensemble"
    parts = [tokens[:, :1]]
    if ensemble:
        parts.append(chosen)
    prior = settings.prior_weight > 0
    if prior and settings.adapted_prior:
        parts.append(tokens[:, seen.views :])
    with torch.no_grad():
        adapted = policy.adapted(torch.cat(parts, dim=1), plan, tuned)
    voters = 1 + M * ensemble
    after = log_mean_probs(adapted[:, :voters])
    content_free = log_mean_probs(adapted[:, voters:]) if adapted.shape[1] > voters else reference.content_free
    if prior and content_free is not None:
        after = (after - settings.prior_weight * content_free).log_softmax(-1)

    suffix = 1 - plan.first_block / len(policy.tower.blocks)
    forwards = seen.log_probs.shape[1] + suffix * ((settings.steps + trials) * M + adapted.shape[1])
    return Adaptation(
        before=seen.log_probs[:, 0],
        after=after,
        cost=Cost(forwards, suffix * settings.steps * M),
        episode=Episode(reference, selected, group, rewards, advantages, tuple(steps), stepped),
    )
