"""When an image needs no more views.

An image whose first views agree needs fewer of them. The rule is a race between two sums: the lead of the best class over
the next, and what the views that are left may still add. This project's own; the paper reads all views.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from grpo_tta.config.checks import check_at_least, check_share
from grpo_tta.engine.distributions import relative_entropy

UNCERTAIN_AFTER = 7
"""Views after which an image that the model is uncertain about gets no more."""


@final
@dataclass(frozen=True)
class Rounds:
    """Views in rounds, until the lead of the best class is decided.

    Attributes:
        share: of the votes that are left, what the best class must lead by. Votes are weighed as in the prediction, and a
            view that is left is taken to weigh what the ones that were read weigh on average. So 1 stops only where the
            views that are left could not change the answer together, and 0 stops after the first round.
        min_confidence: least mean confidence 1 - H / log C of the views read. Below it the model is uncertain: more views
            would move its answer rather than mend it, and there are no more once there are `UNCERTAIN_AFTER`. 0 for no such
            limit.
        sharpness: a of the weights, as that of the entropy weighting.
    """

    share: float = 0.08
    min_confidence: float = 0.3
    sharpness: float = 3.0

    def __post_init__(self) -> None:
        check_share("share", self.share)
        check_share("min_confidence", self.min_confidence)
        check_at_least("sharpness", self.sharpness, 0)

    def views_read(self, log_probs: Tensor) -> Tensor:
        """How many of its views each image needs, int64 `[B]`, from all views' log-probabilities `[B, V, C]`.

        What stands after that many views of an image is not looked at. With votes S_c = sum_v w_v p_v(c) and
        W = sum_v w_v over the n views read, w = exp(-a H / log C): stop at the end of a round where
        (S_1st - S_2nd) / W >= share (V - n) / n, or where n >= `UNCERTAIN_AFTER` and the mean confidence is below
        min_confidence.
        """
        B, V, C = log_probs.shape
        if C < 2:
            return torch.full((B,), round_ends(V)[0], device=log_probs.device)
        uncertainty = relative_entropy(log_probs)  # [B, V]
        weights = (-self.sharpness * uncertainty).exp()
        votes = (log_probs.exp() * weights[..., None]).cumsum(1)  # [B, V, C]
        best, second = votes.topk(2, dim=-1).values.unbind(-1)
        ends = torch.tensor(round_ends(V), device=log_probs.device)
        total = weights.cumsum(1)[:, ends - 1]  # [B, rounds]
        lead = (best - second)[:, ends - 1] / total
        decided = lead >= self.share * (V - ends) / ends
        confidence = 1 - uncertainty.cumsum(1)[:, ends - 1] / ends  # [B, rounds]
        uncertain = (ends >= UNCERTAIN_AFTER) & (confidence < self.min_confidence)
        enough = decided | uncertain
        enough[:, -1] = True
        return ends[enough.int().argmax(1)]

    def view_mask(self, log_probs: Tensor) -> Tensor:
        """Which views each image needs, bool `[B, V]`, from `[B, V, C]`: the first `views_read`."""
        counts = self.views_read(log_probs)
        return torch.arange(log_probs.shape[1], device=log_probs.device) < counts[:, None]


def round_ends(V: int) -> list[int]:
    """How many views have been read after each round: 3, 5, 7, 14, 28, ... and all V."""
    ends = [end for end in (3, 5) if end < V]
    end = UNCERTAIN_AFTER
    while end < V:
        ends.append(end)
        end *= 2
    return [*ends, V]
