"""Distributions over classes: entropy, divergence, and means over views. Pure functions, no model.

Sizes: B images, M views, C classes. A view mask is false where a view was not read and says nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def entropy(log_probs: Tensor) -> Tensor:
    """Shannon entropy in nats, H = -sum_c p_c log p_c: `[..., C]` -> `[...]`. Zero probabilities contribute nothing."""
    return -(log_probs.exp() * log_probs.clamp_min(torch.finfo(log_probs.dtype).min)).sum(-1)


def relative_entropy(log_probs: Tensor) -> Tensor:
    """H / log C, from 0 (sure) to 1 (uniform), whatever the number of classes: `[..., C]` -> `[...]`. 0 for a single class."""
    return entropy(log_probs) / math.log(max(2, log_probs.shape[-1]))


def kl_divergence(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """KL(p || q) = sum_c p_c (log p_c - log q_c) in nats, exact over all C classes: `[..., C]` twice -> `[...]`.

    The classes can be enumerated, so none of the estimators that language models need are used.
    """
    return (log_probs.exp() * (log_probs - reference_log_probs)).sum(-1)


def log_mean_probs(log_probs: Tensor) -> Tensor:
    """log (1/N sum_n p_n): the mean distribution of N views, `[B, N, C]` -> `[B, C]`."""
    return log_probs.logsumexp(1) - math.log(log_probs.shape[1])


def weighted_log_mean(log_probs: Tensor, weights: Tensor) -> Tensor:
    """log sum_v w_v p_v: `[B, M, C]`, `[B, M]` -> `[B, C]`."""
    return (log_probs + weights.clamp_min(torch.finfo(weights.dtype).tiny).log()[..., None]).logsumexp(1)


def mean_over_views(of_views: Tensor, view_mask: Tensor) -> Tensor:
    """The mean over the views that were read: `[B, M, ...]`, bool `[B, M]` -> `[B, ...]`."""
    mask = view_mask.reshape(*view_mask.shape, *[1] * (of_views.ndim - 2))
    return (of_views * mask).sum(1) / mask.sum(1)


def most_confident(log_probs: Tensor, M: int) -> Tensor:
    """Indices of the M views with the lowest entropy: `[B, V, C]` -> `[B, M]` (all of them in their order if M = V)."""
    B, V, _ = log_probs.shape
    if V == M:
        return torch.arange(V, device=log_probs.device).expand(B, V)
    return entropy(log_probs).topk(M, dim=1, largest=False).indices


def take_views(of_views: Tensor, selected: Tensor) -> Tensor:
    """What belongs to the selected views, tokens or probabilities: `[B, N, ...]`, `[B, M]` -> `[B, M, ...]`."""
    return of_views[torch.arange(len(selected), device=selected.device)[:, None], selected]
