"""When an image needs no more views.

An image whose first views agree needs fewer of them. The rule is a race between two sums: the lead of the best class over
the next, and what the views that are left may still add. This project's own; the paper reads all views.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from grpo_tta.method.objective import entropy

DOUBTFUL = 7
"""Views after which an image that the model is at a loss about gets no more."""


@final
@dataclass(frozen=True)
class Stop:
    """When an image needs no more views.

    Attributes:
        share: of the votes that are left, what the best class must lead by. Votes are weighed as in the prediction, and a
            view that is left is taken to weigh what the ones that were read weigh on average; so 1 stops only where the
            views that are left could not change the answer together, 0 after the first round.
        doubt: least mean weight exp(-a H) of the views read: below it the model is at a loss, more views would move its answer
            about rather than mend it, and there are no more once there are `DOUBTFUL`. 0 for no such limit.
        sharpness: a of the weights, as `view_sharpness`.
    """

    share: float
    doubt: float
    sharpness: float


def round_ends(V: int) -> list[int]:
    """How many views have been read after each round: 3, 5, 7, 14, 28, ... and all V."""
    ends = [end for end in (3, 5) if end < V]
    end = DOUBTFUL
    while end < V:
        ends.append(end)
        end *= 2
    return [*ends, V]


def views_read(log_probs: Tensor, stop: Stop) -> Tensor:
    """How many of its views each image needs, int64 `[B]`, from all views' log-probabilities `[B, V, C]`.

    What stands after that many views of an image is not looked at. With votes S_c = sum_v w_v p_v(c) and W = sum_v w_v over
    the n views read, w = exp(-a H): stop at the end of a round where (S_1st - S_2nd) / W >= share (V - n) / n, or where
    n >= `DOUBTFUL` and W / n < doubt.
    """
    B, V, C = log_probs.shape
    if C < 2:
        return torch.full((B,), round_ends(V)[0], device=log_probs.device)
    weights = (-stop.sharpness * entropy(log_probs)).exp()  # [B, V]
    votes = (log_probs.exp() * weights[..., None]).cumsum(1)  # [B, V, C]
    best, second = votes.topk(2, dim=-1).values.unbind(-1)
    ends = torch.tensor(round_ends(V), device=log_probs.device)
    total = weights.cumsum(1)[:, ends - 1]  # [B, rounds]
    lead = (best - second)[:, ends - 1] / total
    enough = (lead >= stop.share * (V - ends) / ends) | ((ends >= DOUBTFUL) & (total / ends < stop.doubt))
    enough[:, -1] = True
    return ends[enough.int().argmax(1)]


def read_mask(log_probs: Tensor, stop: Stop) -> Tensor:
    """Which views each image needs, bool `[B, V]`, from `[B, V, C]`: the first `views_read`."""
    counts = views_read(log_probs, stop)
    return torch.arange(log_probs.shape[1], device=log_probs.device) < counts[:, None]
