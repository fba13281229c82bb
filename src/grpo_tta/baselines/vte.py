"""VTE, the vision-text-space ensemble (Döbler et al., arXiv 2405.14977): confident views and templates, both averaged.

How this differs from the paper: the templates are the task's own ensemble, and the crops are this project's (flips and
the crop scale of `ViewSettings`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch.nn import functional as F

from grpo_tta.baselines.checks import check_selected
from grpo_tta.baselines.prompt_features import ensemble_features, read_off
from grpo_tta.engine.interface import ImageBatch, Method, State, no_cuts
from grpo_tta.engine.policy import EncodedViews, Policy
from grpo_tta.method.grpo import Adaptation, Cost, select_views


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


def vte(policy: Policy, seen: EncodedViews, settings: VTESettings) -> Adaptation:
    """softmax_c(s <normalise(mean_M f(v)), t_c>), t_c the ensemble's, M the views of lowest entropy under it.

    V forward passes; C * H text passes once per task.
    """
    text = ensemble_features(policy)
    features = seen.features[:, : seen.views]  # [B, V, D]
    selected = select_views(read_off(policy, features, text), settings.selected)  # [B, M]
    rows = torch.arange(len(features), device=features.device)[:, None]
    mean = F.normalize(features[rows, selected].mean(1), dim=-1)
    return Adaptation(seen.log_probs[:, 0], read_off(policy, mean, text), Cost(float(seen.views)))


def vte_method(settings: VTESettings, name: str = "vte") -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return vte(policy, batch.seen, settings), state

    return Method(name, "episodic", "none", settings.views, 0, settings, no_cuts, run)
