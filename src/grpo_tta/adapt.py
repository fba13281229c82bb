"""One batch of episodes, top to bottom: views -> group -> rewards -> advantages -> policy steps -> prediction.

GRPO-TTA (arXiv 2605.03403) with GRPO's objective (arXiv 2402.03300). How this differs from the paper: its formulas could
not be had, so the rewards and the settings are this project's own (see `rewards`, `settings`); the classes can be
enumerated, so KL is exact; and every image of the batch has its own parameters, so a batch of B images is B separate
episodes that share nothing but the passes through the frozen model.

Nothing here receives a label.

Sizes: B images, V views, P content-free copies, M selected views, C classes, K candidates, T tokens, W token width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from grpo_tta import objective
from grpo_tta.candidates import CandidateGroup, propose
from grpo_tta.policy import Policy
from grpo_tta.rewards import Reference, combine, log_mean_probs
from grpo_tta.settings import GRPOSettings
from grpo_tta.tuning import Plan, make_plan


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
    backwards: float

    @property
    def total(self) -> float:
        """Forward passes, a backward pass counted as two of them (its arithmetic)."""
        return self.forwards + 2 * self.backwards


@final
@dataclass(frozen=True)
class Adaptation:
    """The outcome of B episodes.

    Attributes:
        before: `[B, C]` log-probabilities of the frozen model on view 0 (zero-shot).
        after: `[B, C]` log-probabilities of the prediction.
        reference: what the frozen model said.
        selected: `[B, M]` indices of the selected views.
        group, rewards, advantages: the groups, `[B, M, K]`.
        steps: one entry per policy step.
        stepped: `[B]` bool, false where every advantage was zero and no step was taken.
        cost: per image.
    """

    before: Tensor
    after: Tensor
    reference: Reference
    selected: Tensor
    group: CandidateGroup
    rewards: Tensor
    advantages: Tensor
    steps: tuple[StepStatistics, ...]
    stepped: Tensor
    cost: Cost


def adapt(
    policy: Policy,
    views: Tensor,
    copies: Tensor,
    settings: GRPOSettings,
    *,
    generators: Sequence[torch.Generator] | None = None,
    stream: Tensor | None = None,
    chunk: int = 256,
) -> Adaptation:
    """Adapts to B images, each alone, and predicts.

    Args:
        policy: frozen tower and class prompts; never modified.
        views: `[B, V, 3, S, S]`, view 0 the model's own preprocessing.
        copies: `[B, P, 3, S, S]`, P may be zero.
        settings: of the method.
        generators: one per image, for the Gumbel noise of the group rule `sample`.
        stream: `[B, C]` log of the running mean prediction; only for an online method.
        chunk: views per pass of the frozen model.

    Raises:
        UserError: settings that do not fit the model or the classes, or a model that returns NaN.
    """
    B, V = views.shape[:2]
    M, K = settings.selected, settings.group_size(policy.classes)
    plan = make_plan(policy.tower, settings.tuned, settings.last_blocks, settings.rank)

    # reference pass: the trunk runs once; tokens that enter the first tuned block are kept
    pixels = torch.cat([views, copies], dim=1)  # [B, V + P, 3, S, S]
    log_probs, tokens = policy.reference(pixels.flatten(0, 1), plan.first_block, chunk)
    log_probs, tokens = log_probs.unflatten(0, (B, -1)), tokens.unflatten(0, (B, -1))

    # selection: the views the model is surest about
    selected = objective.entropy(log_probs[:, :V]).topk(M, dim=1, largest=False).indices  # [B, M]
    kept = log_probs.gather(1, selected[..., None].expand(-1, -1, policy.classes))  # [B, M, C]
    reference = Reference(
        log_probs=kept,
        consensus=log_mean_probs(kept),
        content_free=log_mean_probs(log_probs[:, V:]) if copies.shape[1] else None,
        text_features=policy.text_features,
        stream=stream,
    )

    # group, rewards, advantages
    gumbel = None if settings.group != "sample" else _gumbel(generators, kept)
    group = propose(kept, K, settings.group, mass=settings.nucleus_mass, gumbel=gumbel)
    rewards = combine(settings.rewards, reference, group)  # [B, M, K]
    advantages = objective.advantages(
        rewards, group.old_log_probs, group.mask, settings.advantage, temperature=settings.target_temperature
    )
    weights = objective.candidate_weights(group.old_log_probs, group.mask, settings.weighting)
    stepped = (advantages != 0).flatten(1).any(1)  # [B]

    # policy steps on the selected views, from the cached tokens
    rows = torch.arange(B, device=tokens.device)[:, None]
    chosen = tokens[rows, selected]  # [B, M, T, W]
    tuned = plan.start(B)
    optimizer = _Optimizer(settings)
    steps = []
    extra = 0.0
    for _ in range(settings.steps):
        with torch.enable_grad():
            new = policy.adapted(chosen, plan, tuned)  # [B, M, C]
            surrogate, clipped = objective.clipped_objective(
                group.gather(new), group.old_log_probs, advantages, weights, settings.clip
            )
            kl = objective.kl_divergence(new, kept).mean(1)  # [B]
            gain = surrogate.mean(1) - settings.kl_weight * kl
            # summed over images: every image gets the gradient it would have got alone
            gradients = torch.autograd.grad(-gain.sum(), list(tuned.values()))
        norm = _norm(gradients)
        moved = optimizer.step(tuned, gradients, norm, stepped)
        if settings.max_kl is not None:
            moved, tried = _within_trust(policy, chosen, plan, tuned, moved, kept, settings.max_kl)
            extra += tried
        steps.append(StepStatistics(gain.detach(), kl.detach(), clipped.mean(1), norm, group.gather(new).detach()))
        tuned = moved

    # predict after the update, then forget
    with torch.no_grad():
        first = chosen if settings.prediction == "ensemble" else chosen[:, :0]
        final = torch.cat([tokens[:, :1], first], dim=1)
        adapted = policy.adapted(final, plan, tuned)
        after = log_mean_probs(adapted)
        prior_views = 0
        if settings.prior_weight and reference.content_free is not None:
            after = (after - settings.prior_weight * reference.content_free).log_softmax(-1)

    suffix = 1 - plan.first_block / len(policy.tower.blocks)
    passes = settings.steps * M + extra * M + final.shape[1] + prior_views
    return Adaptation(
        before=log_probs[:, 0],
        after=after,
        reference=reference,
        selected=selected,
        group=group,
        rewards=rewards,
        advantages=advantages,
        steps=tuple(steps),
        stepped=stepped,
        cost=Cost(V + copies.shape[1] + suffix * passes, suffix * settings.steps * M),
    )
