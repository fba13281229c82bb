"""Group-relative advantages and the clipped objective: pure functions on tensors, no model and no I/O.

Symbols: B images, M views, K candidates of a group, C classes. A mask is true where a candidate is real (groups of
the nucleus rule differ in size). Equations of GRPO are those of DeepSeekMath (Shao et al. 2024, arXiv 2402.03300).
The application to classes as actions follows GRPO-TTA (arXiv 2605.03403). It is implemented without access to the paper's
equations and not verified against them, so the forms below are this project's own where they are not GRPO's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from grpo_tta.config.checks import check_positive
from grpo_tta.method.types import CandidateGroup


@final
@dataclass(frozen=True)
class ZScore:
    """(r - mean r) / (std r + eps), GRPO's own (arXiv 2402.03300, section 4.1.1); std over the group as a population.

    Attributes:
        eps: keeps it finite.
    """

    eps: float = 1e-6

    def __post_init__(self) -> None:
        check_positive("eps", self.eps)

    def __call__(self, rewards: Tensor, group: CandidateGroup) -> Tensor:
        out = rewards - _mean_in_group(rewards, group.mask)
        return out / (_mean_in_group(out.square(), group.mask).sqrt() + self.eps)


@final
@dataclass(frozen=True)
class Centred:
    """r - mean r (Dr. GRPO, arXiv 2503.20783: the division throws away how much better a candidate is)."""

    def __call__(self, rewards: Tensor, group: CandidateGroup) -> Tensor:
        return rewards - _mean_in_group(rewards, group.mask)


@final
@dataclass(frozen=True)
class Target:
    """softmax(r / temperature) - pi_old, both over the group.

    Its first step is that of cross-entropy towards softmax(r / temperature): distillation.

    Attributes:
        temperature: in units of reward.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)

    def __call__(self, rewards: Tensor, group: CandidateGroup) -> Tensor:
        goal = (rewards / self.temperature).masked_fill(~group.mask, -torch.inf).softmax(-1)
        return goal - group_log_probs(group).exp()


def group_log_probs(group: CandidateGroup) -> Tensor:
    """log pi_old renormalised inside the group, `[B, M, K]`, -inf where masked."""
    return group.old_log_probs.masked_fill(~group.mask, -torch.inf).log_softmax(-1)


def _mean_in_group(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp_min(1)


def rewards_differ(rewards: Tensor, mask: Tensor) -> Tensor:
    """Whether a group's rewards give any reason for a step: `[B, M, K]` twice -> bool `[B, M, 1]`."""
    highest = rewards.masked_fill(~mask, -torch.inf).amax(-1, keepdim=True)
    lowest = rewards.masked_fill(~mask, torch.inf).amin(-1, keepdim=True)
    return highest > lowest


def clipped_objective(log_probs: Tensor, group: CandidateGroup, advantages: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate over a group: mean_K min(rho A, clip(rho, 1 - clip, 1 + clip) A), to be maximised.

    rho = pi_theta(o) / pi_old(o). In an episode pi_old is the frozen policy, so at the first step rho = 1 and neither
    clip nor KL acts: with one step this is a policy gradient with a group baseline, and for advantages that sum to zero its
    gradient with respect to the group's logits is A / K. The mean over the group is GRPO's over a group of *samples*; over a
    deterministic top-K it is no expectation under pi_old, and neither is it over Gumbel top-K without inclusion weights.

    Args:
        log_probs: `[B, M, K]`, log pi_theta of the candidates, carries the gradient.
        group: the candidates; masked ones count nothing.
        advantages: `[B, M, K]`.
        clip: half-width of the trust interval around one.

    Returns:
        The surrogate `[B, M]` and the share of candidates `[B, M]` at which the clip cuts the gradient.
    """
    mask = group.mask
    weights = mask.to(log_probs.dtype) / mask.sum(-1, keepdim=True).clamp_min(1)
    ratio = (log_probs - group.old_log_probs).masked_fill(~mask, 0.0).exp()
    free, cut = ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages
    surrogate = (weights * torch.minimum(free, cut)).sum(-1)
    clipped = (weights * (cut < free)).sum(-1)
    return surrogate, clipped.detach()
