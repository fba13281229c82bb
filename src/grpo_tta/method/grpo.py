"""One batch of episodes, top to bottom: views -> group -> rewards -> advantages -> policy steps -> prediction.

GRPO-TTA (arXiv 2605.03403) with GRPO's objective (arXiv 2402.03300). How this differs from the paper: its formulas could
not be had, so the rewards and the settings are this project's own (see `rewards`, `settings`); the classes can be
enumerated, so KL is exact; and every image of the batch has its own parameters, so a batch of B images is B separate
episodes that share nothing but the passes through the frozen model.

Nothing here receives a label.

Sizes: B images, V views, P content-free copies, M selected views, C classes, K candidates, T tokens, W token width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from grpo_tta.engine.early_exit import read_mask
from grpo_tta.engine.optim import Update, within_trust
from grpo_tta.engine.parameters import Plan, make_plan
from grpo_tta.engine.policy import EncodedViews, Policy
from grpo_tta.errors import UserError
from grpo_tta.images.seeds import ImageNoise
from grpo_tta.method import objective
from grpo_tta.method.candidates import CandidateGroup, propose, share
from grpo_tta.method.rewards import Reference, combine, content_free_prior, view_weights, weighted_log_mean
from grpo_tta.method.settings import GRPOSettings

Reward = Callable[[Reference, CandidateGroup], Tensor]
"""(reference, group) -> rewards `[B, M, K]` in nats; must be label-free to be fair. Only differences in a group matter."""


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

    A pass through part of the blocks counts as that part. Content-free copies count as views. A tensor `[B]` where
    images differ.
    """

    forwards: float | Tensor
    backwards: float | Tensor = 0.0

    def of(self, image: int) -> tuple[float, float]:
        """Forward and backward passes of one image of the batch."""
        forwards, backwards = (float(x[image]) if isinstance(x, Tensor) else float(x) for x in (self.forwards, self.backwards))
        return forwards, backwards


@final
@dataclass(frozen=True)
class Proposal:
    """What the policy step is asked to do for B images, before any step is taken.

    Attributes:
        reference: what the frozen model said.
        selected: `[B, M]` indices of the selected views.
        group, rewards, advantages: the groups, `[B, M, K]`.
        weights: `[B, M, K]` of the candidates in the objective.
        stepped: `[B]` bool, false where every advantage is zero and no step is taken.
    """

    reference: Reference
    selected: Tensor
    group: CandidateGroup
    rewards: Tensor
    advantages: Tensor
    weights: Tensor
    stepped: Tensor


@final
@dataclass(frozen=True)
class Episode:
    """How B predictions came about: the proposal, and one entry per policy step."""

    proposal: Proposal
    steps: tuple[StepStatistics, ...]


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


def take_views(of_views: Tensor, selected: Tensor) -> Tensor:
    """What belongs to the selected views, tokens or probabilities: `[B, N, ...]`, `[B, M]` -> `[B, M, ...]`."""
    return of_views[torch.arange(len(selected), device=selected.device)[:, None], selected]


def refer(policy: Policy, seen: EncodedViews, settings: GRPOSettings) -> tuple[Tensor, Reference]:
    """Selection `[B, M]` and what the frozen model said about the selected views and the copies.

    With `stop` M is the largest number of views that an image of the batch needs.
    """
    views, copies = seen.log_probs[:, : seen.views], seen.log_probs[:, seen.views :]
    read = None
    if settings.stopping is not None:
        read = read_mask(views, settings.stopping)
        most = int(read.sum(1).max())
        read, views = read[:, :most], views[:, :most]
    selected = select_views(views, min(settings.selected, views.shape[1]))
    kept = take_views(views, selected)  # [B, M, C]
    weights = view_weights(kept, settings.view_sharpness, read)  # [B, M]
    consensus = weighted_log_mean(kept, weights)
    content_free = content_free_prior(copies, consensus, settings.gated_prior) if copies.shape[1] else None
    return selected, Reference(kept, weights, consensus, content_free, policy.text_features, read=read)


def propose_steps(
    policy: Policy,
    seen: EncodedViews,
    settings: GRPOSettings,
    *,
    image_ids: Sequence[str] = (),
    seed: int = 0,
    reward: Reward | None = None,
) -> Proposal:
    """Selection, group, rewards and advantages of B images; no gradient, no step. Arguments as in `propose_from`."""
    selected, reference = refer(policy, seen, settings)
    return propose_from(selected, reference, settings, image_ids=image_ids, seed=seed, reward=reward)


def propose_from(
    selected: Tensor,
    reference: Reference,
    settings: GRPOSettings,
    *,
    image_ids: Sequence[str] = (),
    seed: int = 0,
    reward: Reward | None = None,
) -> Proposal:
    """Group, rewards and advantages for what `refer` has found (an online method adds its stream prior to it first).

    Args:
        selected: `[B, M]` indices of the selected views.
        reference: what the frozen model said of them.
        image_ids, seed: name the Gumbel noise of the group rule `sample`.
        reward: in place of the settings' sum of rewards.

    Raises:
        UserError: settings that do not fit the classes, or a reward of the wrong shape or that is not finite.
    """
    old = reference.log_probs  # [B, M, C]
    C = old.shape[-1]
    K = settings.group_size(C)
    # the distribution that proposes: each view's own, or the views' common opinion
    proposer = old if settings.group_of == "view" else reference.consensus[:, None]  # [B, M or 1, C]
    gumbel = ImageNoise(seed, tuple(image_ids)).gumbel(proposer.shape[1], C).to(old) if settings.group == "sample" else None
    group = propose(proposer, K, settings.group, mass=settings.nucleus_mass, gumbel=gumbel)
    if settings.group_of == "image":
        group = share(group, old)
    rewards = combine(settings.rewards, reference, group) if reward is None else _own(reward, reference, group)  # [B, M, K]
    advantages = objective.advantages(
        rewards, group.old_log_probs, group.mask, settings.advantage, temperature=settings.target_temperature
    )
    weights = objective.candidate_weights(group.old_log_probs, group.mask, settings.weighting)
    if reference.read is not None:  # what a view that was not read would have said is no reason for a step
        advantages = advantages * reference.read[..., None]
    stepped = (advantages != 0).flatten(1).any(1)  # [B]
    return Proposal(reference, selected, group, rewards, advantages, weights, stepped)


def _own(reward: Reward, reference: Reference, group: CandidateGroup) -> Tensor:
    """A user's own rewards, checked, zero where masked."""
    rewards = reward(reference, group)
    if rewards.shape != group.classes.shape or not torch.isfinite(rewards[group.mask]).all():
        shapes = f"{tuple(group.classes.shape)}, not {tuple(rewards.shape)}"
        raise UserError(f"A reward must give finite numbers of the group's shape [B, M, K] {shapes}.")
    return rewards.masked_fill(~group.mask, 0.0)


def policy_gain(new: Tensor, proposal: Proposal, settings: GRPOSettings) -> tuple[Tensor, Tensor, Tensor]:
    """The objective of each image, to be maximised, with its KL and clipped share: log pi_theta `[B, M, C]` -> `[B]` each."""
    group = proposal.group
    surrogate, clipped = objective.clipped_objective(
        group.gather(new), group.old_log_probs, proposal.advantages, proposal.weights, settings.clip
    )
    kl = _mean_over_read(objective.kl_divergence(new, proposal.reference.log_probs), proposal.reference)
    gain = (proposal.reference.weights * surrogate).sum(1) - settings.kl_weight * kl
    return gain, kl.detach(), _mean_over_read(clipped, proposal.reference)


def _mean_over_read(of_views: Tensor, reference: Reference) -> Tensor:
    """The mean over the views that were read: `[B, M]` -> `[B]`."""
    if reference.read is None:
        return of_views.mean(1)
    return (of_views * reference.read).sum(1) / reference.read.sum(1)


def adapt(
    policy: Policy,
    seen: EncodedViews,
    settings: GRPOSettings,
    *,
    image_ids: Sequence[str] = (),
    seed: int = 0,
    reward: Reward | None = None,
) -> Adaptation:
    """Adapts to B images, each alone, and predicts.

    Args:
        policy: frozen backbone and class prompts; never modified.
        seen: the frozen model's pass over views and copies, with the tokens at the plan's first block.
        settings: of the method.
        image_ids, seed: name the Gumbel noise of the group rule `sample`.
        reward: in place of the settings' sum of rewards.

    Raises:
        UserError: settings that do not fit the model or the classes, or a reward that is no use.
    """
    # selection, group, rewards, advantages
    proposal = propose_steps(policy, seen, settings, image_ids=image_ids, seed=seed, reward=reward)

    # policy steps on the selected views, from the cached tokens; every image has its own parameters
    plan = make_plan(policy.backbone, settings.tuned, settings.last_blocks, settings.rank)
    tokens = seen.tokens[plan.first_block]  # [B, V + P, T, W]
    chosen = take_views(tokens, proposal.selected)  # [B, M, T, W]
    tuned = plan.start(len(tokens))
    update = Update(settings.optimizer, settings.learning_rate, settings.max_gradient_norm)
    steps: list[StepStatistics] = []
    trials = 0
    for _ in range(settings.steps):
        with torch.enable_grad():
            new = policy.adapted(chosen, plan, tuned)  # [B, M, C]
            gain, kl, clipped = policy_gain(new, proposal, settings)
            # summed over images: every image gets the gradient it would have got alone
            gradients = torch.autograd.grad(gain.sum(), list(tuned.values()))
        moved, norm = update.ascend(tuned, gradients, proposal.stepped)
        if settings.max_kl is not None:
            moved, tried = within_trust(policy, chosen, plan, tuned, moved, proposal.reference.log_probs, settings.max_kl)
            trials += tried
        tuned = moved
        steps.append(StepStatistics(gain.detach(), kl, clipped, norm, proposal.group.gather(new).detach()))

    # predict after the update, then forget
    passes: int | Tensor
    after, passes = read_out(policy, seen, proposal, settings, plan, tuned)
    suffix = 1 - plan.first_block / len(policy.backbone.blocks)
    M: int | Tensor = proposal.selected.shape[1]
    unread: int | Tensor = 0
    if (read := proposal.reference.read) is not None:  # each image's own
        M = read.sum(1)
        passes, unread = passes - read.shape[1] + M, seen.views - M
    forwards = seen.log_probs.shape[1] - unread + suffix * ((settings.steps + trials) * M + passes)
    return Adaptation(
        before=seen.log_probs[:, 0],
        after=after,
        cost=Cost(forwards, suffix * settings.steps * M),
        episode=Episode(proposal, tuple(steps)),
    )


@torch.no_grad()
def read_out(
    policy: Policy,
    seen: EncodedViews,
    proposal: Proposal,
    settings: GRPOSettings,
    plan: Plan,
    tuned: Mapping[str, Tensor],
) -> tuple[Tensor, int]:
    """The adapted model's log-probabilities `[B, C]`, and how many views had to pass through the suffix for them.

    log pi_theta of view 0, or for `ensemble` the log of its weighted mean over the selected views (weights as in
    `view_weights`, by the adapted entropies), minus w times the log of the adapted or frozen content-free prior.
    """
    tokens = seen.tokens[plan.first_block]
    ensemble = settings.prediction == "ensemble"
    voters = take_views(tokens, proposal.selected) if ensemble else tokens[:, :1]
    copies = tokens[:, seen.views :] if settings.prior_weight and settings.adapted_prior else tokens[:, :0]
    adapted = policy.adapted(torch.cat([voters, copies], dim=1), plan, tuned)  # [B, voters + copies, C]
    views = adapted[:, : voters.shape[1]]
    read = proposal.reference.read if ensemble else None
    after = weighted_log_mean(views, view_weights(views, settings.view_sharpness, read))
    prior = proposal.reference.content_free
    if copies.shape[1]:
        prior = content_free_prior(adapted[:, voters.shape[1] :], proposal.reference.consensus, settings.gated_prior)
    if settings.prior_weight and prior is not None:
        after = (after - settings.prior_weight * prior).log_softmax(-1)
    return after, adapted.shape[1]
