"""When an image needs no more views.

An image whose first views agree needs fewer of them. The rule is a race between the two best classes: the lead of the first
over the second, relative to what both hold, and what the views that are left may still turn. This project's own; the paper
reads all views.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from grpo_tta.config.checks import check_at_least, check_share
from grpo_tta.engine.distributions import relative_entropy

_FIRST, _DOUBLING = (3, 5), 7


@final
@dataclass(frozen=True)
class Rounds:
    """Views in rounds, until the lead of the best class is decided.

    Only the two best classes are compared, and entropies are relative to their maximum. So the rule needs the same numbers for
    ten labels and for two thousand.

    Attributes:
        share: what the views that are left may turn, against those that were read. 1 stops only where they could not change
            the order of the two best classes together (a view that is left is taken to weigh what the ones that were read weigh
            on average, and to say what they say of all other classes); 0 stops after the first round.
        sharpness: a of the weights, as that of the entropy weighting.
    """

    share: float = 0.08
    sharpness: float = 3.0

    def __post_init__(self) -> None:
        check_share("share", self.share)
        check_at_least("sharpness", self.sharpness, 0)

    def views_read(self, log_probs: Tensor) -> Tensor:
        """How many of its views each image needs, int64 `[B]`, from all views' log-probabilities `[B, V, C]`.

        What stands after that many views of an image is not looked at. With votes S_c = sum_v w_v p_v(c) over the n views read,
        w = exp(-a H / log C): stop at the end of a round where (S_1st - S_2nd) / (S_1st + S_2nd) >= share (V - n) / n.
        """
        B, V, C = log_probs.shape
        if C < 2:
            return torch.full((B,), round_ends(V)[0], device=log_probs.device)
        weights = (-self.sharpness * relative_entropy(log_probs)).exp()  # [B, V]
        votes = (log_probs.exp() * weights[..., None]).cumsum(1)  # [B, V, C]
        best, second = votes.topk(2, dim=-1).values.unbind(-1)
        ends = torch.tensor(round_ends(V), device=log_probs.device)
        lead = ((best - second) / (best + second))[:, ends - 1]  # [B, rounds]
        enough = lead >= self.share * (V - ends) / ends
        enough[:, -1] = True
        return ends[enough.int().argmax(1)]

    def view_mask(self, log_probs: Tensor) -> Tensor:
        """Which views each image needs, bool `[B, V]`, from `[B, V, C]`: the first `views_read`."""
        counts = self.views_read(log_probs)
        return torch.arange(log_probs.shape[1], device=log_probs.device) < counts[:, None]


def round_ends(V: int) -> list[int]:
    """How many views have been read after each round: 3, 5, 7, 14, 28, ... and all V."""
    ends = [end for end in _FIRST if end < V]
    end = _DOUBLING
    while end < V:
        ends.append(end)
        end *= 2
    return [*ends, V]
