"""How the adapted policy answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final

from torch import Tensor

from grpo_tta.config.checks import check_at_least
from grpo_tta.engine.distributions import weighted_log_mean
from grpo_tta.method.rewards import CONTENT_FREE, STREAM
from grpo_tta.method.types import Reference
from grpo_tta.method.weighting import Weighting


class PredictionRule(Protocol):
    def select(self, reference: Reference) -> Tensor:
        """Numbers of the views that the adapted model reads for the answer: `[B, n]`."""
        ...

    def passes(self, reference: Reference) -> Tensor:
        """How many of them each image needs: `[B]`."""
        ...

    def __call__(self, log_probs: Tensor, reference: Reference, weighting: Weighting) -> Tensor:
        """The answer in log-probabilities, from those of the adapted model: `[B, n, C]` -> `[B, C]`."""
        ...


def _ensemble(log_probs: Tensor, reference: Reference, weighting: Weighting) -> Tensor:
    return weighted_log_mean(log_probs, weighting(log_probs, reference.view_mask))


@final
@dataclass(frozen=True)
class View0:
    """pi_theta of view 0, the untouched image."""

    def select(self, reference: Reference) -> Tensor:
        return reference.views[:, :1] * 0

    def passes(self, reference: Reference) -> Tensor:
        return reference.views_read * 0 + 1

    def __call__(self, log_probs: Tensor, reference: Reference, weighting: Weighting) -> Tensor:
        return log_probs[:, 0]


@final
@dataclass(frozen=True)
class Ensemble:
    """The weighted mean of pi_theta over the selected views, less `prior` times the log of the gated content-free prior.

    Attributes:
        prior: weight; 0 leaves the prior out.
    """

    prior: float = 0.05

    def __post_init__(self) -> None:
        check_at_least("prior", self.prior, 0)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({CONTENT_FREE} if self.prior else ())

    def select(self, reference: Reference) -> Tensor:
        return reference.views

    def passes(self, reference: Reference) -> Tensor:
        return reference.view_mask.sum(1)

    def __call__(self, log_probs: Tensor, reference: Reference, weighting: Weighting) -> Tensor:
        after = _ensemble(log_probs, reference, weighting)
        return (after - self.prior * reference.content_free_prior()).log_softmax(-1) if self.prior else after


@final
@dataclass(frozen=True)
class StreamEnsemble:
    """The weighted mean over the selected views, less `prior` times the log of the stream prior. Online.

    Attributes:
        prior: weight.
    """

    prior: float = 0.75
    needs = frozenset({STREAM})

    def __post_init__(self) -> None:
        check_at_least("prior", self.prior, 0)

    def select(self, reference: Reference) -> Tensor:
        return reference.views

    def passes(self, reference: Reference) -> Tensor:
        return reference.view_mask.sum(1)

    def __call__(self, log_probs: Tensor, reference: Reference, weighting: Weighting) -> Tensor:
        assert reference.stream is not None, "an online method always has a stream prior"
        return (_ensemble(log_probs, reference, weighting) - self.prior * reference.stream).log_softmax(-1)
