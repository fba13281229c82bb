"""The mathematics of an episode: pure functions on tensors, no model and no I/O.

Symbols: B images, M views, K candidates of a group, C classes. A `mask` is true where a candidate is real (groups of
the nucleus rule differ in size). Equations of GRPO are those of DeepSeekMath (Shao et al. 2024, arXiv 2402.03300);
the application to classes as actions follows GRPO-TTA (arXiv 2605.03403), whose formulas could not be had, so the
forms below are this project's own where they are not GRPO's.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

AdvantageForm = Literal["zscore", "center", "rank", "target"]
Weighting = Literal["uniform", "policy"]


def entropy(log_probs: Tensor) -> Tensor:
    """Shannon entropy in nats, H = -sum_c p_c log p_c: `[..., C]` -> `[...]`. Zero probabilities contribute nothing."""
    return -(log_probs.exp() * log_probs.clamp_min(torch.finfo(log_probs.dtype).min)).sum(-1)


def kl_divergence(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """KL(p || q) = sum_c p_c (log p_c - log q_c) in nats, exact over all C classes: `[..., C]` twice -> `[...]`.

    The classes can be enumerated, so none of the estimators that language models need are used.
    """
    return (log_probs.exp() * (log_probs - reference_log_probs)).sum(-1)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp_min(1)


def group_log_probs(log_probs: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities renormalised inside the group: `[..., K]` and its mask -> `[..., K]`, -inf where masked."""
    return log_probs.masked_fill(~mask, -torch.inf).log_softmax(-1)


def advantages(
    rewards: Tensor,
    old_log_probs: Tensor,
    mask: Tensor,
    form: AdvantageForm = "zscore",
    *,
    temperature: float = 1.0,
    eps: float = 1e-6,
) -> Tensor:
    """Group-relative advantages: rewards `[B, M, K]` -> `[B, M, K]`, zero where masked.

    - `zscore`: (r - mean r) / (std r + eps), GRPO's own (arXiv 2402.03300, section 4.1.1); std over the group as a
      population.
    - `center`: r - mean r (Dr. GRPO, arXiv 2503.20783: the division throws away how much better a candidate is).
    - `rank`: ranks 0..K-1 (ties share their mean rank), centred and scaled to [-1, 1].
    - `target`: softmax(r / temperature) - pi_old, both over the group. Its first step is that of cross-entropy
      towards softmax(r / temperature), that is, of distillation.

    A group whose largest and smallest reward are equal has zero advantages in every form.

    Args:
        rewards: `[B, M, K]`.
        old_log_probs: `[B, M, K]`, log pi_old of the candidates (only `target` reads it).
        mask: `[B, M, K]` bool.
        form: which of the four.
        temperature: of `target` alone, in units of reward.
        eps: keeps `zscore` finite.

    Raises:
        ValueError: unknown form, or a temperature that is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}.")
    real = mask.to(rewards.dtype)
    if form in ("zscore", "center"):
        out = rewards - _masked_mean(rewards, real)
        if form == "zscore":
            out = out / (_masked_mean(out.square(), real).sqrt() + eps)
    elif form == "rank":
        pairs = mask[..., :, None] & mask[..., None, :]
        difference = torch.sign(rewards[..., :, None] - rewards[..., None, :]) * pairs
        out = difference.sum(-1) / (real.sum(-1, keepdim=True) - 1).clamp_min(1)
    elif form == "target":
        goal = (rewards / temperature).masked_fill(~mask, -torch.inf).softmax(-1)
        out = goal - group_log_probs(old_log_probs, mask).exp()
    else:
        raise ValueError(f"Unknown advantage form {form!r}; choose zscore, center, rank or target.")
    highest = rewards.masked_fill(~mask, -torch.inf).amax(-1, keepdim=True)
    lowest = rewards.masked_fill(~mask, torch.inf).amin(-1, keepdim=True)
    return torch.where(mask & (highest > lowest), out, 0.0)


def candidate_weights(old_log_probs: Tensor, mask: Tensor, weighting: Weighting) -> Tensor:
    """Weight of each candidate in the objective, summing to one over a group: `[B, M, K]`.

    `uniform` (1/K) is GRPO's mean over a group of *samples*; over a deterministic top-K it is no expectation under
    pi_old, and neither is it over Gumbel top-K without inclusion weights. `policy` (pi_old renormalised in the group)
    is the truncated exact gradient.

    Raises:
        ValueError: unknown weighting.
    """
    if weighting == "uniform":
        return mask.to(old_log_probs.dtype) / mask.sum(-1, keepdim=True).clamp_min(1)
    if weighting == "policy":
        return group_log_probs(old_log_probs, mask).exp()
    raise ValueError(f"Unknown weighting {weighting!r}; choose uniform or policy.")


def clipped_objective(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, weights: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate over a group: sum_K w min(rho A, clip(rho, 1 - clip, 1 + clip) A), to be maximised.

    rho = pi_theta(o) / pi_old(o). In an episode pi_old is the frozen policy, so at the first step rho = 1 and neither
    clip nor KL acts: with one step this is a policy gradient with a group baseline, and for `uniform` weights and
    advantages that sum to zero its gradient with respect to the group's logits is A / K.

    Args:
        log_probs: `[B, M, K]`, log pi_theta of the candidates, carries the gradient.
        old_log_probs: `[B, M, K]`.
        advantages: `[B, M, K]`, zero where a candidate is masked.
        weights: `[B, M, K]`, zero where masked.
        clip: half-width of the trust interval around one.

    Returns:
        The surrogate `[B, M]` and the weighted share of candidates `[B, M]` at which the clip cuts the gradient.
    """
    real = weights > 0
    ratio = (log_probs - old_log_probs).masked_fill(~real, 0.0).exp()
    free, cut = ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages
    surrogate = (weights * torch.minimum(free, cut)).sum(-1)
    clipped = (weights * (cut < free)).sum(-1)
    return surrogate, clipped.detach()
