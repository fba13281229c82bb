"""How an image's views count in the ensemble prediction, the objective and the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from grpo_tta.config.checks import check_at_least
from grpo_tta.engine.distributions import most_confident, relative_entropy


class Weighting(Protocol):
    def select(self, log_probs: Tensor) -> Tensor:
        """Numbers of the views that count at all: `[B, V, C]` -> `[B, M]`."""
        ...

    def __call__(self, log_probs: Tensor, view_mask: Tensor) -> Tensor:
        """Weights that sum to one, zero where masked: log-probabilities of the selected views `[B, M, C]` -> `[B, M]`."""
        ...


@final
@dataclass(frozen=True)
class ByEntropy:
    """All views, w_v = softmax_v(-a H(pi(. | v)) / log C): the surer a view, the more it counts.

    TTL weighs its loss in this spirit. The entropy is relative to its maximum, so that ten and a thousand labels of one task
    need the same sharpness.

    Attributes:
        sharpness: a; 0 weighs all alike.
    """

    sharpness: float = 3.0

    def __post_init__(self) -> None:
        check_at_least("sharpness", self.sharpness, 0)

    def select(self, log_probs: Tensor) -> Tensor:
        B, V, _ = log_probs.shape
        return torch.arange(V, device=log_probs.device).expand(B, V)

    def __call__(self, log_probs: Tensor, view_mask: Tensor) -> Tensor:
        return (-self.sharpness * relative_entropy(log_probs)).masked_fill(~view_mask, -torch.inf).softmax(1)


@final
@dataclass(frozen=True)
class MostConfident:
    """The M views of lowest entropy, all alike (TPT's selection, arXiv 2209.07511).

    Attributes:
        count: M.
    """

    count: int = 6

    def __post_init__(self) -> None:
        check_at_least("count", self.count, 1)

    def select(self, log_probs: Tensor) -> Tensor:
        return most_confident(log_probs, min(self.count, log_probs.shape[1]))

    def __call__(self, log_probs: Tensor, view_mask: Tensor) -> Tensor:
        return view_mask.to(log_probs.dtype) / view_mask.sum(1, keepdim=True)
