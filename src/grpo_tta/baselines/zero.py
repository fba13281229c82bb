"""ZERO (Farina et al., arXiv 2405.18330): the confident views vote, which is marginalising at temperature zero.

How this differs from the paper: ties are broken greedily by confidence as there, but the exact rule, which leaves no case
to chance, is this project's (see `count_votes`). The crops are this project's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta.config.checks import check_at_least
from grpo_tta.engine.distributions import entropy
from grpo_tta.engine.interface import Adaptation, Cost, EncodedViews, ImageBatch, Method, State, no_cached_blocks
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError

_NO_VOTE = 1e-6  # share of a vote given to every class, so that log-probabilities stay finite


@final
@dataclass(frozen=True)
class ZeroSettings:
    """
    Attributes:
        views: V.
        kept: share of the views, those of lowest entropy, that vote.
    """

    views: int = 64
    kept: float = 0.3

    def __post_init__(self) -> None:
        check_at_least("views", self.views, 1)
        if not 0 < self.kept <= 1:
            raise UserError(f"kept must lie in (0, 1], not {self.kept}.")

    @property
    def selected(self) -> int:
        """M, rounded down: 19 of 64."""
        return max(1, int(self.kept * self.views))


def count_votes(log_probs: Tensor, M: int) -> Tensor:
    """Votes of the M most confident views, `[B, V, C]` -> `[B, C]`; the winner of a tie holds half a vote more.

    Each view votes for its most probable class (of several, the one with the lowest number). A tie for the most votes
    is broken greedily: the views that were not kept are asked one by one, the most confident first, and the first whose
    vote falls on a tied class decides. If none does, the most confident of the kept views that voted for a tied class
    decides. Views of equal entropy are asked in their own order.
    """
    order = entropy(log_probs).sort(dim=1, stable=True).indices  # [B, V]
    votes = F.one_hot(log_probs.argmax(-1).gather(1, order), log_probs.shape[-1]).float()  # [B, V, C], confident first
    counts = votes[:, :M].sum(1)
    tied = counts == counts.amax(1, keepdim=True)
    asked = torch.cat([votes[:, M:], votes[:, :M]], dim=1)
    # argmax of booleans as integers: the first view whose vote falls on a tied class
    decides = (asked * tied[:, None]).sum(-1).int().argmax(1)
    winner = asked[torch.arange(len(asked), device=asked.device), decides]
    return counts + 0.5 * winner * (tied.sum(1, keepdim=True) > 1)


def zero(encoded: EncodedViews, settings: ZeroSettings) -> Adaptation:
    """Shares of the votes as probabilities; V forward passes."""
    views = encoded.log_probs[:, : encoded.views]
    counts = count_votes(views, settings.selected) + _NO_VOTE
    after = (counts / counts.sum(-1, keepdim=True)).log()
    return Adaptation(views[:, 0], after, Cost(float(encoded.views)))


def zero_method(settings: ZeroSettings, name: str = "zero") -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return zero(batch.encoded, settings), state

    return Method(name, "episodic", "none", settings.views, 0, settings, no_cached_blocks, run)
