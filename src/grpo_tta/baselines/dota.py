"""DOTA (Han et al., NeurIPS 2025, arXiv 2409.19375): a Gaussian for each class, estimated along the stream, beside
zero-shot.

Class c holds a mean mu_c (at first its prompt t_c), a covariance S_c (at first sigma I) and a count n_c (at first 1). An
image is predicted before it is learned from:

    logits = s <f, t> + w g,    g_c = <f, L mu_c> - 1/2 <mu_c, L mu_c>,    w = min(rho mean_c n_c / M, eta),
    L = ((1 - epsilon) mean_c S_c + epsilon I)^-1.

Its M confident views v with zero-shot probabilities p_v then move every class by its share of them:

    mu_c <- (n_c mu_c + sum_v p_vc f_v) / (n_c + sum_v p_vc),    n_c <- n_c + sum_v p_vc,
    S_c  <- (n_c S_c + sum_v p_vc (f_v - mu_c)(f_v - mu_c)^T) / (n_c + sum_v p_vc), with mu_c and n_c from before.

How this differs from the official code: one setting for all data, while the code has one per data set (eta 0.1 to 3, rho
0.0025 to 0.05, epsilon 4e-5 to 2e-3); the default is that of ImageNet. One view by default, as the code takes on all sets
but the ImageNet variants, where it takes 64. The official half precision is left out, and so are the human labels for
uncertain images. `pooled` is not in the paper: S = sum_c n_c S_c / sum_c n_c needs one matrix, where the official mean over
classes needs one for each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from grpo_tta.config.checks import check_positive, check_selected, check_share
from grpo_tta.engine.distributions import most_confident, take_views
from grpo_tta.engine.interface import Adaptation, Cost, ImageBatch, Method, State, no_cached_blocks
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError

_MOST_NUMBERS = 2**28  # of all covariances together: 1 GiB


@final
@dataclass(frozen=True)
class DOTASettings:
    """Image by image: `update_size` is one and no setting.

    Attributes:
        views: V.
        selected: M, how many views of lowest entropy are predicted and learned from.
        variance: sigma, of every feature of every class at the start.
        shrinkage: epsilon, share of the identity in the covariance that is inverted.
        growth: rho, weight of the Gaussians per view that a class has seen.
        most: eta, the largest weight.
        pooled: one covariance for all classes together, for long lists of labels.
    """

    update_size: ClassVar[int] = 1

    views: int = 1
    selected: int = 1
    variance: float = 2e-3
    shrinkage: float = 1e-4
    growth: float = 5e-3
    most: float = 0.2
    pooled: bool = False

    def __post_init__(self) -> None:
        check_selected(self.selected, self.views)
        check_positive("variance", self.variance)
        check_share("shrinkage", self.shrinkage)
        check_positive("growth", self.growth)
        check_positive("most", self.most)


def first_gaussians(text: Tensor, settings: DOTASettings) -> State:
    """The Gaussians before a stream: means `[C, D]`, counts `[C]`, and covariances `[C, D, D]` (`[1, D, D]` where pooled).

    Raises:
        UserError: the covariances of so many classes would not fit into a gibibyte.
    """
    C, D = text.shape
    matrices = 1 if settings.pooled else C
    if matrices * D * D > _MOST_NUMBERS:
        raise UserError(f"DOTA keeps {C} covariances of {D} x {D} numbers, which is too many here; use dota-pooled.")
    identity = torch.eye(D, device=text.device).expand(matrices, D, D)
    return {
        "means": text.float().clone(),
        "counts": torch.ones(C, device=text.device),
        "covariances": settings.variance * identity,
    }


def gaussian_scores(gaussians: State, feature: Tensor, settings: DOTASettings) -> Tensor:
    """<f, L mu_c> - 1/2 <mu_c, L mu_c> of one feature `[D]`: `[C]`."""
    means, covariance = gaussians["means"], gaussians["covariances"].mean(0)
    shrunk = (1 - settings.shrinkage) * covariance
    shrunk.diagonal().add_(settings.shrinkage)
    weights = torch.linalg.solve(shrunk, means.T)  # L mu, [D, C]
    return feature @ weights - 0.5 * (means * weights.T).sum(-1)


def learn(gaussians: State, features: Tensor, probabilities: Tensor) -> State:
    """Gaussians that have seen M more views: `[M, D]`, `[M, C]`."""
    means, counts, covariances = (gaussians[key] for key in ("means", "counts", "covariances"))
    more = probabilities.sum(0)  # [C]
    after = counts + more
    off = features[:, None] - means  # [M, C, D]
    weighted = probabilities[..., None] * off
    if len(covariances) == 1:
        scatter = torch.einsum("mci,mcj->ij", weighted, off)[None]
        covariances = (counts.sum() * covariances + scatter) / after.sum()
    else:
        scatter = torch.einsum("mci,mcj->cij", weighted, off)
        covariances = (counts[:, None, None] * covariances + scatter) / after[:, None, None]
    moved = (counts[:, None] * means + probabilities.T @ features) / after[:, None]
    return {"means": moved, "counts": after, "covariances": covariances}


def dota(policy: Policy, batch: ImageBatch, settings: DOTASettings, state: State) -> tuple[Adaptation, State]:
    """Image by image: predicted by zero-shot and the Gaussians so far, then learned from; V forward passes.

    The state holds the Gaussians; an empty one starts a stream.
    """
    encoded, s = batch.encoded, settings
    said = encoded.log_probs[:, : encoded.views]
    selected = most_confident(said, s.selected)
    features, said = take_views(encoded.features, selected), take_views(said, selected)  # [B, M, D], [B, M, C]
    gaussians = {key: value.to(features.device) for key, value in state.items()}
    gaussians = gaussians or first_gaussians(policy.text_features, s)
    after = []
    for seen, own in zip(features, said, strict=True):
        weight = (s.growth * gaussians["counts"].mean() / s.selected).clamp(max=s.most)
        # The mean of log-probabilities is that of logits but for a number that all classes share.
        logits = own.mean(0) + weight * gaussian_scores(gaussians, seen.mean(0), s)
        after.append(logits.log_softmax(-1))
        gaussians = learn(gaussians, seen, own.exp())
    return Adaptation(encoded.log_probs[:, 0], torch.stack(after), Cost(float(s.views))), gaussians


def dota_method(settings: DOTASettings, name: str = "dota") -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return dota(policy, batch, settings, state)

    return Method(name, "online", "none", settings.views, 0, settings, no_cached_blocks, run, reads_text=True)
