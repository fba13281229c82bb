"""VTE, the vision-text-space ensemble (Döbler et al., arXiv 2405.14977): confident views and templates, both averaged.

How this differs from the paper: the templates are the task's own ensemble, and the crops are this project's (flips and
the crop scale of `ViewSettings`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from grpo_tta.baselines.common import class_log_probs, ensemble_features
from grpo_tta.config.checks import check_selected
from grpo_tta.engine.distributions import most_confident, take_views
from grpo_tta.engine.interface import Adaptation, Cost, EncodedViews, ImageBatch, Method, State, no_cached_blocks
from grpo_tta.engine.policy import Policy


@final
@dataclass(frozen=True)
class VTESettings:
    """
    Attributes:
        views: V.
        selected: M, how many views of lowest entropy are averaged (10 %).
    """

    views: int = 64
    selected: int = 6

    def __post_init__(self) -> None:
        check_selected(self.selected, self.views)


def vte(policy: Policy, encoded: EncodedViews, settings: VTESettings) -> Adaptation:
    """softmax_c(s <normalise(mean_M f(v)), t_c>), t_c the ensemble's, M the views of lowest entropy under it.

    V forward passes; C * H text passes once per task.
    """
    text = ensemble_features(policy)
    features = encoded.features[:, : encoded.views]  # [B, V, D]
    selected = most_confident(class_log_probs(policy, features, text), settings.selected)  # [B, M]
    mean = policy.scaled(take_views(features, selected).mean(1))
    return Adaptation(encoded.log_probs[:, 0], class_log_probs(policy, mean, text), Cost(float(encoded.views)))


def vte_method(settings: VTESettings, name: str = "vte") -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return vte(policy, batch.encoded, settings), state

    return Method(name, "episodic", "none", settings.views, 0, settings, no_cached_blocks, run)
