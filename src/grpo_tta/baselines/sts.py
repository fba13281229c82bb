"""STS, spectrum-aware test-time steering (Dafnis and Metaxas, NeurIPS 2025, arXiv 2511.09809): one shift shared by all class
prototypes, within the leading directions of their spectrum.

The class features Z `[C, D]` have the singular value decomposition U S V^T. The first k rows of V^T are the basis, where k
counts the singular values above the Gavish-Donoho threshold omega(beta) median(s), with beta the smaller side of Z over the
larger and omega = 0.56 beta^3 - 0.95 beta^2 + 1.82 beta + 1.43 (arXiv 1305.5870). Coefficients gamma `[k]`, zero at first,
steer every prototype alike, t'_c = normalise(t_c + V_k gamma), and one step of AdamW lowers the entropy of the mean
prediction over the confident views. The answer is the mean prediction over these views.

What was not verified: the paper was read through summaries, and its code was not available to us. That the answer averages
the confident views is from one of them (another says all views); AdamW's decay is torch's default; the views are this
project's. The penalty on the shift's length is left out: at gamma = 0, the only place where a single step looks, it has no
gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from grpo_tta.baselines.common import class_log_probs, ensemble_features
from grpo_tta.baselines.encoder_entropy import mean_confidence
from grpo_tta.config.checks import check_at_least, check_selected
from grpo_tta.engine.distributions import log_mean_probs, most_confident, take_views
from grpo_tta.engine.interface import Adaptation, Cost, EncodedViews, ImageBatch, Method, State, no_cached_blocks
from grpo_tta.engine.loop import gradient_of, gradient_steps
from grpo_tta.engine.optim import Adam
from grpo_tta.engine.policy import Policy

# Kept per policy: the decomposition belongs to the classes, and each batch of a run would make it again.
_BASES: WeakKeyDictionary[Policy, dict[bool, Tensor]] = WeakKeyDictionary()


@final
@dataclass(frozen=True)
class STSSettings:
    """
    Attributes:
        views: V.
        selected: M, how many views of lowest entropy enter the loss and the answer (10 %).
        steps: of AdamW.
        learning_rate, weight_decay: of AdamW.
        ensemble: prototypes are the mean over the task's ensemble of templates (the paper's seven), which needs text.
    """

    views: int = 64
    selected: int = 6
    steps: int = 1
    learning_rate: float = 5e-3
    weight_decay: float = 0.01
    ensemble: bool = False

    def __post_init__(self) -> None:
        check_selected(self.selected, self.views)
        check_at_least("steps", self.steps, 1)
        self.optimizer()

    def optimizer(self) -> Adam:
        return Adam(self.learning_rate, weight_decay=self.weight_decay)


def spectral_basis(prototypes: Tensor) -> Tensor:
    """The leading right singular vectors of `[C, D]` class features: `[D, k]`, orthonormal columns, k at least 1."""
    _, singular, right = torch.linalg.svd(prototypes.float(), full_matrices=False)
    beta = min(prototypes.shape) / max(prototypes.shape)
    omega = 0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43
    k = int((singular > omega * singular.quantile(0.5)).sum())
    return right[: max(1, k)].T


def steered_log_probs(cosines: Tensor, along: Tensor, text_along: Tensor, gamma: Tensor, scale: float) -> Tensor:
    """log softmax_c(s <f, normalise(t_c + V gamma)>) without the steered prototypes themselves, `[B, M, C]`.

    With orthonormal V the cosine is (<f, t_c> + <V^T f, gamma>) / sqrt(1 + 2 <V^T t_c, gamma> + |gamma|^2).

    Args:
        cosines: <f, t_c> of unit features, `[B, M, C]`.
        along: V^T f, `[B, M, k]`.
        text_along: V^T t_c, `[C, k]`.
        gamma: one set of coefficients per image, `[B, k]`.
        scale: the model's logit scale s.
    """
    shifted = cosines + (along * gamma[:, None]).sum(-1, keepdim=True)
    squared = 1 + 2 * gamma @ text_along.T + gamma.square().sum(-1, keepdim=True)  # [B, C]
    return (scale * shifted / squared.sqrt()[:, None]).log_softmax(-1)


def _prototypes(policy: Policy, ensemble: bool) -> tuple[Tensor, Tensor]:
    """Unit class features `[C, D]` and their basis `[D, k]`."""
    text = ensemble_features(policy) if ensemble else policy.text_features.float()
    bases = _BASES.setdefault(policy, {})
    if ensemble not in bases:
        bases[ensemble] = spectral_basis(text)
    return text, bases[ensemble]


def sts(policy: Policy, encoded: EncodedViews, settings: STSSettings) -> Adaptation:
    """Mean prediction of the M confident views after the step; V forward passes, and no backward pass through an encoder."""
    s, scale = settings, policy.backbone.logit_scale
    text, basis = _prototypes(policy, s.ensemble)
    features = encoded.features[:, : encoded.views]  # [B, V, D]
    chosen = take_views(features, most_confident(class_log_probs(policy, features, text), s.selected))  # [B, M, D]
    cosines, along, text_along = chosen @ text.T, chosen @ basis, text @ basis

    def steered(params: Mapping[str, Tensor]) -> Tensor:
        return steered_log_probs(cosines, along, text_along, params["gamma"], scale)

    start = {"gamma": cosines.new_zeros(len(cosines), basis.shape[1]).requires_grad_()}
    confidence = gradient_of(lambda params: mean_confidence(steered(params)))
    params = gradient_steps(start, confidence, s.optimizer().start(), s.steps)
    with torch.no_grad():
        after = log_mean_probs(steered(params))
    return Adaptation(encoded.log_probs[:, 0], after, Cost(float(encoded.views)))


def sts_method(settings: STSSettings, name: str = "sts") -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return sts(policy, batch.encoded, settings), state

    return Method(name, "episodic", "none", settings.views, 0, settings, no_cached_blocks, run, reads_text=settings.ensemble)
