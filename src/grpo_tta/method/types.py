"""What passes between the boxes of an episode: the reference, the group of candidates, the scored group, and the trace.

Sizes: B images, V views, M selected views, C classes, K candidates, D feature width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from grpo_tta.engine.loop import Params
from grpo_tta.engine.parameters import TunableParameters
from grpo_tta.images.seeds import ImageNoise


@final
@dataclass(frozen=True)
class Reference:
    """What the frozen model says about B images.

    Attributes:
        log_probs: `[B, M, C]`, log pi_0 of the selected views.
        views: `[B, M]`, numbers of the selected views.
        view_mask: `[B, M]` bool, false where an image did not need that view, so that it says nothing.
        views_read: `[B]`, how many views the frozen model read of each image.
        weights: `[B, M]`, how much each selected view counts, summing to one; zero where a view was not read.
        ensemble: `[B, C]`, log of the selected views' weighted mean prediction: the ensemble prediction.
        content_free: `[B, C]`, log of the mean prediction for the content-free views; None without them.
        text_features: `[C, D]`, unit length.
        stream: `[B, C]` log of the stream prior (see `online`); None unless online.
    """

    log_probs: Tensor
    views: Tensor
    view_mask: Tensor
    views_read: Tensor
    weights: Tensor
    ensemble: Tensor
    content_free: Tensor | None
    text_features: Tensor
    stream: Tensor | None = None

    def content_free_prior(self, *, gated: bool = True) -> Tensor:
        """The content-free prior in log-probabilities, `[B, C]`.

        With the gate it is uniform, and so without effect, where content-free views favour the very class that the views
        favour: what is left of an image without its object then *is* the answer (a colour, a texture), not a bias.

        Raises:
            ValueError: there are no content-free views.
        """
        if self.content_free is None:
            raise ValueError("The content-free prior needs content-free views; set views.content_free to at least 1.")
        if not gated:
            return self.content_free
        same = self.content_free.argmax(-1) == self.ensemble.argmax(-1)
        return self.content_free.masked_fill(same[:, None], -math.log(self.content_free.shape[-1]))


@final
@dataclass(frozen=True)
class CandidateGroup:
    """K class candidates for each of M views of B images.

    Attributes:
        classes: `[B, M, K]` int64, indices into the C classes.
        old_log_probs: `[B, M, K]`, log pi_old of the candidates.
        mask: `[B, M, K]` bool, false where a candidate only fills up the group.
    """

    classes: Tensor
    old_log_probs: Tensor
    mask: Tensor

    def gather(self, per_class: Tensor) -> Tensor:
        """Values `[B, M, C]` (or broadcastable to it) of the candidates: `[B, M, K]`."""
        B, M, _ = self.classes.shape
        return per_class.expand(B, M, per_class.shape[-1]).gather(-1, self.classes)


GroupRule = Callable[[Reference, ImageNoise], CandidateGroup]
"""Chooses the candidates: `TopK()`, `Sample()`, `Nucleus()` or a function of a user's own."""
RewardFunction = Callable[[Reference, CandidateGroup], Tensor]
"""(reference, group) -> rewards `[B, M, K]` in nats; must be label-free to be fair. Only differences in a group matter."""
AdvantageForm = Callable[[Tensor, CandidateGroup], Tensor]
"""(rewards `[B, M, K]`, group) -> group-relative advantages `[B, M, K]`: `Target()`, `ZScore()`, `Centred()` or one's own."""


@final
@dataclass(frozen=True)
class ScoredGroup:
    """What the policy step is asked to do for B images, before any step is taken.

    Attributes:
        reference: what the frozen model says.
        group, rewards, advantages: of each view, `[B, M, K]`.
        update_mask: `[B]` bool, false where every advantage is zero and no step is taken.
    """

    reference: Reference
    group: CandidateGroup
    rewards: Tensor
    advantages: Tensor
    update_mask: Tensor


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
class Updated:
    """B images' own parameters after the policy steps, and how they came about.

    Attributes:
        scored: groups with rewards and advantages.
        tunable: which parameters are tuned.
        params: their values, each with a leading image axis.
        steps: what each step did.
        trials: forward passes over the selected views that the bound on a step's KL took.
    """

    scored: ScoredGroup
    tunable: TunableParameters
    params: Params
    steps: tuple[StepStatistics, ...]
    trials: int


@final
@dataclass(frozen=True)
class Episode:
    """How B predictions came about: the scored group, and one entry per policy step."""

    scored: ScoredGroup
    steps: tuple[StepStatistics, ...]

    def columns(self) -> Mapping[str, Sequence[Any]]:
        """For the records: group, rewards and advantages of the first selected view, and what the last step did."""
        scored = self.scored
        masks = scored.group.mask[:, 0].cpu()

        def of_first_view(x: Tensor) -> list[list[Any]]:
            return [row[mask].tolist() for row, mask in zip(x[:, 0].cpu(), masks, strict=True)]

        columns: dict[str, Sequence[Any]] = {
            "group": of_first_view(scored.group.classes),
            "rewards": of_first_view(scored.rewards.double()),
            "advantages": of_first_view(scored.advantages.double()),
            "updated": scored.update_mask.tolist(),
        }
        if self.steps:
            columns |= {"clipped": self.steps[-1].clipped.tolist(), "kl": self.steps[-1].kl.tolist()}
        return columns
