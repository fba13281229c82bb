"""Mean of the confident views: the test-time ensemble that every adapting method must beat (VTE, ZERO's soft form)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from grpo_tta.config.checks import check_selected
from grpo_tta.engine.distributions import log_mean_probs, most_confident, take_views
from grpo_tta.engine.interface import Adaptation, Cost, EncodedViews, ImageBatch, Method, State, no_cached_blocks
from grpo_tta.engine.policy import Policy


@final
@dataclass(frozen=True)
class ViewMeanSettings:
    """
    Attributes:
        views: V.
        selected: M, how many views of lowest entropy are averaged.
    """

    views: int = 16
    selected: int = 16

    def __post_init__(self) -> None:
        check_selected(self.selected, self.views)


def view_mean(encoded: EncodedViews, settings: ViewMeanSettings) -> Adaptation:
    """log (1/M sum_v pi_0(. | v)) over the M views of lowest entropy; V forward passes, no update."""
    views = encoded.log_probs[:, : encoded.views]
    selected = most_confident(views, settings.selected)
    return Adaptation(views[:, 0], log_mean_probs(take_views(views, selected)), Cost(float(encoded.views)))


def view_mean_method(settings: ViewMeanSettings, name: str = "view-mean") -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return view_mean(batch.encoded, settings), state

    return Method(name, "episodic", "none", settings.views, 0, settings, no_cached_blocks, run)
