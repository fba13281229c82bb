"""Groups: which class prompts are scored against each other.

A group is chosen from the ensemble prediction of an image's views (`per="image"`), or from each view's own (`per="view"`). A
view that is wrong may not hold the right class among its own first K; a group of its own would then only reinforce wrong
classes against each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from grpo_tta.config.checks import check_at_least, check_choice, check_share
from grpo_tta.images.seeds import ImageNoise
from grpo_tta.method.types import CandidateGroup, Reference

Per = Literal["image", "view"]


@final
@dataclass(frozen=True)
class TopK:
    """The K most probable classes.

    Attributes:
        size: K; all classes where there are fewer.
        per: `image` or `view`.
    """

    size: int = 5
    per: Per = "image"

    def __post_init__(self) -> None:
        check_at_least("size", self.size, 1)
        check_choice("per", self.per, ("image", "view"))

    def __call__(self, reference: Reference, noise: ImageNoise) -> CandidateGroup:
        log_probs = chosen_from(reference, self.per)  # [B, 1 or M, C]
        return group_of(reference, top(log_probs, self.size))


@final
@dataclass(frozen=True)
class Sample:
    """K classes drawn without replacement (Gumbel top-K, Kool et al. 2019, arXiv 1903.06059).

    Attributes:
        size: K; all classes where there are fewer.
        per: `image` or `view`.
    """

    size: int = 5
    per: Per = "image"

    def __post_init__(self) -> None:
        check_at_least("size", self.size, 1)
        check_choice("per", self.per, ("image", "view"))

    def __call__(self, reference: Reference, noise: ImageNoise) -> CandidateGroup:
        log_probs = chosen_from(reference, self.per)  # [B, 1 or M, C]
        gumbel = noise.gumbel(*log_probs.shape[1:]).to(log_probs)
        return group_of(reference, top(log_probs + gumbel, self.size))


@final
@dataclass(frozen=True)
class Nucleus:
    """The smallest set of classes that holds a probability mass (Holtzman et al. 2020, arXiv 1904.09751), given as a mask.

    Attributes:
        mass: that the set must hold, in (0, 1].
        at_most: largest K.
        per: `image` or `view`.
    """

    mass: float = 0.9
    at_most: int = 10
    per: Per = "image"

    def __post_init__(self) -> None:
        check_share("mass", self.mass, open_below=True)
        check_at_least("at_most", self.at_most, 1)
        check_choice("per", self.per, ("image", "view"))

    def __call__(self, reference: Reference, noise: ImageNoise) -> CandidateGroup:
        log_probs = chosen_from(reference, self.per)  # [B, 1 or M, C]
        classes = top(log_probs, self.at_most)
        probs = log_probs.gather(-1, classes).exp()
        # a class stays while the mass before it is short of the target
        return group_of(reference, classes, probs.cumsum(-1) - probs < self.mass)


def chosen_from(reference: Reference, per: Per) -> Tensor:
    """The log-probabilities that propose: the ensemble prediction `[B, 1, C]`, or each view's own `[B, M, C]`."""
    return reference.ensemble[:, None] if per == "image" else reference.log_probs


def top(scores: Tensor, size: int) -> Tensor:
    """The classes of the highest scores, or all where there are fewer: `[B, N, C]` -> `[B, N, K]`."""
    return scores.topk(min(size, scores.shape[-1]), dim=-1).indices


def group_of(reference: Reference, classes: Tensor, mask: Tensor | None = None) -> CandidateGroup:
    """The group of each view, with the view's own log pi_old: classes `[B, 1 or M, K]`, and which of them are real."""
    B, M, _ = reference.log_probs.shape
    classes = classes.expand(B, M, -1)
    real = torch.ones_like(classes, dtype=torch.bool) if mask is None else mask.expand(B, M, -1)
    return CandidateGroup(classes, reference.log_probs.gather(-1, classes), real)


def every_class(reference: Reference) -> CandidateGroup:
    """All C classes as the group of every view."""
    B, M, C = reference.log_probs.shape
    return group_of(reference, torch.arange(C, device=reference.log_probs.device).expand(B, M, C))
