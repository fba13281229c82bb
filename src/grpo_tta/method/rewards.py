"""Label-free rewards: alignment (visual-textual agreement) and dispersion (against collapsed predictions).

The paper (arXiv 2605.03403) names the two families; the formulas are this project's own. Every reward is a pure
function `(reference, group) -> [B, M, K]` in nats (semantic dispersion: in units of cosine), computed by the frozen
model alone, so rewards do not move while the policy learns. Only differences inside a group matter.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import final

import torch
from torch import Tensor

from grpo_tta.errors import UserError
from grpo_tta.method.candidates import CandidateGroup
from grpo_tta.method.objective import entropy


@final
@dataclass(frozen=True)
class Reference:
    """What the frozen model said about B images.

    Attributes:
        log_probs: `[B, M, C]`, log pi_0 of the selected views.
        weights: `[B, M]`, how much each selected view counts, summing to one; zero where a view was not read.
        consensus: `[B, C]`, log of the selected views' weighted mean prediction.
        content_free: `[B, C]`, log of the content-free prior (see `content_free_prior`); None without copies.
        text_features: `[C, D]`, unit length.
        read: `[B, M]` bool, false where an image did not need that view, so that it says nothing; None where all were read.
        stream: `[B, C]` log of the mean zero-shot prediction over the images seen so far; None unless online.
    """

    log_probs: Tensor
    weights: Tensor
    consensus: Tensor
    content_free: Tensor | None
    text_features: Tensor
    stream: Tensor | None = None
    read: Tensor | None = None


@final
@dataclass(frozen=True)
class RewardWeights:
    """Weight of each reward in the sum. Zero switches one off; `stream` above zero makes the method online."""

    alignment_view: float = 0.0
    alignment_consensus: float = 1.0
    content_free: float = 0.05
    stream: float = 0.0
    semantic: float = 0.0


def log_mean_probs(log_probs: Tensor) -> Tensor:
    """log (1/N sum_n p_n): the mean distribution of N views, `[B, N, C]` -> `[B, C]`."""
    return log_probs.logsumexp(1) - torch.tensor(float(log_probs.shape[1])).log().item()


def view_weights(log_probs: Tensor, sharpness: float, read: Tensor | None = None) -> Tensor:
    """w_v = softmax_v(-a H(pi(. | v))): how much each view counts, `[B, M, C]` -> `[B, M]`, summing to one.

    a = 0 weighs all alike; TTL weighs its loss in the same spirit.

    Args:
        read: bool `[B, M]`, false for views that were not read and count nothing; None where all were.
    """
    scores = -sharpness * entropy(log_probs)
    return (scores if read is None else scores.masked_fill(~read, -torch.inf)).softmax(1)


def weighted_log_mean(log_probs: Tensor, weights: Tensor) -> Tensor:
    """log sum_v w_v p_v: `[B, M, C]`, `[B, M]` -> `[B, C]`."""
    return (log_probs + weights.clamp_min(torch.finfo(weights.dtype).tiny).log()[..., None]).logsumexp(1)


def content_free_prior(copies: Tensor, consensus: Tensor, gated: bool) -> Tensor:
    """log (1/P sum_p pi(. | copy_p)): `[B, P, C]` -> `[B, C]`.

    With the gate it is uniform, and so without effect, where the copies favour the very class that the views favour:
    what is left of an image without its object then *is* the answer (a colour, a texture), not a bias.
    """
    prior = log_mean_probs(copies)
    if not gated:
        return prior
    same = prior.argmax(-1) == consensus.argmax(-1)
    uniform = -torch.tensor(float(prior.shape[-1])).log().item()
    return prior.masked_fill(same[:, None], uniform)


def alignment_view(reference: Reference, group: CandidateGroup) -> Tensor:
    """r(o, v) = log pi_0(o | v): the frozen CLIP score s * cos(f(v), t_o) of the candidate's prompt against its view.

    The two differ by the view's log-partition, a constant of the group.
    """
    return group.gather(reference.log_probs)


def alignment_consensus(reference: Reference, group: CandidateGroup) -> Tensor:
    """r(o) = log sum_v w_v pi_0(o | v): agreement of the candidate's prompt with all selected views together."""
    return group.gather(reference.consensus[:, None])


def dispersion_content_free(reference: Reference, group: CandidateGroup) -> Tensor:
    """r(o) = -log (1/P sum_p pi_0(o | copy_p)): a class is rewarded less the more the model favours it for
    content-free copies of the same image, which keep its low-level statistics and destroy the object.

    Raises:
        ValueError: the reference holds no copies.
    """
    if reference.content_free is None:
        raise ValueError("The content-free reward needs content-free copies; set copies to at least 1.")
    return -group.gather(reference.content_free[:, None])


def dispersion_stream(reference: Reference, group: CandidateGroup) -> Tensor:
    """r(o) = -log (1/N sum_n pi_0(o | image n)) over the images seen so far, this one included. Online.

    Raises:
        ValueError: the reference holds no stream prior.
    """
    if reference.stream is None:
        raise ValueError("The stream reward needs the running mean of predictions; use the online protocol.")
    return -group.gather(reference.stream[:, None])


def dispersion_semantic(reference: Reference, group: CandidateGroup) -> Tensor:
    """r(o) = 1 - mean_{o' != o} cos(t_o, t_o'): candidates whose prompts stand apart from the rest of the group earn
    more. A group of one earns nothing.
    """
    text = reference.text_features[group.classes]  # [B, M, K, D]
    cosine = text @ text.transpose(-1, -2)  # [B, M, K, K]
    others = group.mask[..., None, :] & ~torch.eye(cosine.shape[-1], dtype=torch.bool, device=cosine.device)
    count = others.sum(-1)
    mean = (cosine * others).sum(-1) / count.clamp_min(1)
    return torch.where(count > 0, 1 - mean, 0.0)


_REWARDS = {
    "alignment_view": alignment_view,
    "alignment_consensus": alignment_consensus,
    "content_free": dispersion_content_free,
    "stream": dispersion_stream,
    "semantic": dispersion_semantic,
}


def combine(weights: RewardWeights, reference: Reference, group: CandidateGroup) -> Tensor:
    """Weighted sum of the rewards whose weight is not zero: `[B, M, K]`, zero where masked.

    Raises:
        UserError: every weight is zero.
    """
    total: Tensor | None = None
    for field in fields(weights):
        weight = getattr(weights, field.name)
        if weight:
            part = weight * _REWARDS[field.name](reference, group)
            total = part if total is None else total + part
    if total is None:
        raise UserError("All reward weights are zero; give at least one reward a weight.")
    return total.masked_fill(~group.mask, 0.0)
