"""Label-free rewards: alignment (visual-textual agreement) and dispersion (against collapsed predictions).

The paper (arXiv 2605.03403) names the two families; the formulas are this project's own. Every reward is a pure
function `(reference, group) -> [B, M, K]` in nats (semantic dispersion: in units of cosine). Only differences inside a group
matter. Rewards add up and take weights: `Alignment() + 0.05 * ContentFree()`. A user's own is a function of the same signature,
with an attribute `needs` where it reads what not every run has.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor

from grpo_tta.config.checks import check_choice
from grpo_tta.errors import UserError
from grpo_tta.method.types import CandidateGroup, Reference, RewardFunction

CONTENT_FREE, STREAM = "content_free", "stream"
"""What a part of the settings may need: content-free views, or a stream (the online protocol)."""


def needs_of(part: Any) -> frozenset[str]:
    """What a part declares that it needs; nothing where it says nothing."""
    return frozenset(getattr(part, "needs", ()))


class Reward(ABC):
    """A reward that adds up with others and takes a weight."""

    needs: frozenset[str] = frozenset()

    @abstractmethod
    def __call__(self, reference: Reference, group: CandidateGroup) -> Tensor:
        """`[B, M, K]`, higher for better candidates."""

    def __add__(self, other: RewardFunction) -> Sum:
        return Sum((*_terms(self), *_terms(other))) if callable(other) else NotImplemented

    def __radd__(self, other: RewardFunction) -> Sum:
        return Sum((*_terms(other), *_terms(self))) if callable(other) else NotImplemented

    def __mul__(self, weight: float) -> Sum:
        if not isinstance(weight, int | float):
            return NotImplemented
        return Sum(tuple((weight * own, reward) for own, reward in _terms(self)))

    __rmul__ = __mul__


def _terms(reward: RewardFunction) -> tuple[tuple[float, RewardFunction], ...]:
    return reward.terms if isinstance(reward, Sum) else ((1.0, reward),)


@final
@dataclass(frozen=True)
class Sum(Reward):
    """A weighted sum of rewards. A weight of zero switches one off.

    Attributes:
        terms: weight and reward.
    """

    terms: tuple[tuple[float, RewardFunction], ...]

    def __post_init__(self) -> None:
        for weight, _ in self.terms:
            if not math.isfinite(weight):
                raise UserError(f"The weight of a reward must be a finite number, not {weight}.")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset().union(*(needs_of(reward) for weight, reward in self.terms if weight))

    def __call__(self, reference: Reference, group: CandidateGroup) -> Tensor:
        """
        Raises:
            UserError: every weight is zero.
        """
        parts = [weight * reward(reference, group) for weight, reward in self.terms if weight]
        if not parts:
            raise UserError("All reward weights are zero; give at least one reward a weight.")
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total


@final
@dataclass(frozen=True)
class Alignment(Reward):
    """Agreement of the candidate's prompt with the image, as the frozen CLIP scores it.

    `image`: r(o) = log sum_v w_v pi_0(o | v), agreement with the ensemble prediction of all selected views. `view`:
    r(o, v) = log pi_0(o | v), the frozen score s * cos(f(v), t_o) of each view; the two differ by the view's log-partition, a
    constant of the group.

    Attributes:
        per: `image` or `view`.
    """

    per: Literal["image", "view"] = "image"

    def __post_init__(self) -> None:
        check_choice("per", self.per, ("image", "view"))

    def __call__(self, reference: Reference, group: CandidateGroup) -> Tensor:
        return group.gather(reference.ensemble[:, None] if self.per == "image" else reference.log_probs)


@final
@dataclass(frozen=True)
class ContentFree(Reward):
    """Dispersion: r(o) = -log (1/P sum_p pi_0(o | content-free view p)).

    A class earns less the more the model favours it for content-free views of the same image, which keep its low-level
    statistics and destroy the object.

    Attributes:
        gated: leave it out where content-free views and views favour the same class (see `Reference.content_free_prior`).
    """

    gated: bool = True
    needs = frozenset({CONTENT_FREE})

    def __call__(self, reference: Reference, group: CandidateGroup) -> Tensor:
        return -group.gather(reference.content_free_prior(gated=self.gated)[:, None])


@final
@dataclass(frozen=True)
class StreamPrior(Reward):
    """Dispersion along a stream: r(o) = -log q(o), with q the stream prior (see `online`), this image included."""

    needs = frozenset({STREAM})

    def __call__(self, reference: Reference, group: CandidateGroup) -> Tensor:
        """
        Raises:
            ValueError: the reference holds no stream prior.
        """
        if reference.stream is None:
            raise ValueError("The stream reward needs the stream prior; use the online protocol.")
        return -group.gather(reference.stream[:, None])


@final
@dataclass(frozen=True)
class Semantic(Reward):
    """Dispersion in the prompts' own space: r(o) = 1 - mean_{o' != o} cos(t_o, t_o').

    Candidates whose prompts stand apart from the rest of the group earn more; a group of one earns nothing. One reading of
    the paper's dispersion, kept for ablation.
    """

    def __call__(self, reference: Reference, group: CandidateGroup) -> Tensor:
        text = reference.text_features[group.classes]  # [B, M, K, D]
        cosine = text @ text.transpose(-1, -2)  # [B, M, K, K]
        others = group.mask[..., None, :] & ~torch.eye(cosine.shape[-1], dtype=torch.bool, device=cosine.device)
        count = others.sum(-1)
        mean = (cosine * others).sum(-1) / count.clamp_min(1)
        return torch.where(count > 0, 1 - mean, 0.0)
