"""MTA (Zanella and Ben Ayed, arXiv 2405.02266): a mean shift over the views' features with learned inlierness.

It maximises over a mode m and inlierness scores y on the simplex

    sum_p y_p K_p(m) + lambda_q/2 sum_pq w_pq y_p y_q + lambda_y H(y),   K_p(m) = exp(-|f_p - m|^2 / h_p^2),

with w_pq = <pi_0(.|v_p), pi_0(.|v_q)>, by turns of y = softmax((K + lambda_q W y) / lambda_y) and
m = sum y K f / sum y K. How this differs from the paper: both loops run a fixed number of turns instead of until a
tolerance, so that an image's result cannot depend on its batch; and a turn moves the mode once and leaves its length, where the
official code moves it up to five times and brings it to unit length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from grpo_tta.baselines.common import class_log_probs
from grpo_tta.config.checks import check_at_least, check_positive
from grpo_tta.engine.interface import Adaptation, Cost, EncodedViews, ImageBatch, Method, State, no_cached_blocks
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError


@final
@dataclass(frozen=True)
class MTASettings:
    """
    Attributes:
        views: V.
        entropy_weight: lambda_y.
        affinity_weight: lambda_q.
        neighbours: share of the other views, the nearest, that make a view's bandwidth h_p^2.
        iterations: turns of the mode, and turns of the inlierness inside each.
    """

    views: int = 64
    entropy_weight: float = 0.2
    affinity_weight: float = 4.0
    neighbours: float = 0.3
    iterations: int = 5

    def __post_init__(self) -> None:
        check_at_least("views", self.views, 2)
        check_positive("entropy_weight", self.entropy_weight)
        check_at_least("affinity_weight", self.affinity_weight, 0)
        check_at_least("iterations", self.iterations, 1)
        if not 0 < self.neighbours <= 1:
            raise UserError(f"neighbours must lie in (0, 1], not {self.neighbours}.")


def bandwidths(features: Tensor, neighbours: float) -> Tensor:
    """h_p^2: mean squared distance to the nearest share of the other views, `[B, V, D]` -> `[B, V]`."""
    squared = torch.cdist(features, features).square()
    count = max(1, int(neighbours * (features.shape[1] - 1)))
    nearest = squared.sort(dim=-1).values[..., 1 : count + 1]  # the first is the view itself
    return nearest.mean(-1).clamp_min(1e-12)


def kernel(features: Tensor, mode: Tensor, bandwidth: Tensor) -> Tensor:
    """K_p(m) = exp(-|f_p - m|^2 / h_p^2): `[B, V, D]`, `[B, D]`, `[B, V]` -> `[B, V]`."""
    return torch.exp(-(features - mode[:, None]).square().sum(-1) / bandwidth)


def inlierness(density: Tensor, affinity: Tensor, scores: Tensor, settings: MTASettings) -> Tensor:
    """One turn of y = softmax((K + lambda_q W y) / lambda_y): `[B, V]`, `[B, V, V]`, `[B, V]` -> `[B, V]`."""
    pull = torch.einsum("bpq,bq->bp", affinity, scores)
    return ((density + settings.affinity_weight * pull) / settings.entropy_weight).softmax(-1)


def shift(features: Tensor, density: Tensor, scores: Tensor) -> Tensor:
    """One mean-shift step, m = sum_p y_p K_p f_p / sum_p y_p K_p: `[B, D]`."""
    weights = scores * density
    return torch.einsum("bp,bpd->bd", weights, features) / weights.sum(1, keepdim=True).clamp_min(1e-12)


def mta(policy: Policy, encoded: EncodedViews, settings: MTASettings) -> Adaptation:
    """softmax_c(s <normalise(m), t_c>), m started at view 0 and y uniform; V forward passes."""
    features, log_probs = encoded.features[:, : encoded.views], encoded.log_probs[:, : encoded.views]
    affinity = torch.einsum("bpc,bqc->bpq", log_probs.exp(), log_probs.exp())
    bandwidth = bandwidths(features, settings.neighbours)
    mode = features[:, 0]
    scores = torch.full_like(bandwidth, 1 / encoded.views)
    for _ in range(settings.iterations):
        density = kernel(features, mode, bandwidth)
        for _ in range(settings.iterations):
            scores = inlierness(density, affinity, scores, settings)
        mode = shift(features, density, scores)
    after = class_log_probs(policy, policy.scaled(mode), policy.text_features)
    return Adaptation(log_probs[:, 0], after, Cost(float(encoded.views)))


def mta_method(settings: MTASettings, name: str = "mta") -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return mta(policy, batch.encoded, settings), state

    return Method(name, "episodic", "none", settings.views, 0, settings, no_cached_blocks, run)
