"""Mean of the confident views: the test-time ensemble that every adapting method must beat (VTE, ZERO's soft form)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from grpo_tta.engine.interface import ImageBatch, Method, State, no_cuts
from grpo_tta.engine.policy import EncodedViews, Policy
from grpo_tta.errors import UserError
from grpo_tta.method.grpo import Adaptation, Cost, select_views, take_views
from grpo_tta.method.rewards import log_mean_probs


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
        if not 1 <= self.selected <= self.views:
            raise UserError(f"{self.selected} of {self.views} views cannot be selected; use 1 to {self.views}.")


def view_mean(seen: EncodedViews, settings: ViewMeanSettings) -> Adaptation:
    """log (1/M sum_v pi_0(. | v)) over the M views of lowest entropy; V forward passes, no update."""
    views = seen.log_probs[:, : seen.views]
    selected = select_views(views, settings.selected)
    return Adaptation(views[:, 0], log_mean_probs(take_views(views, selected)), Cost(float(seen.views)))


def view_mean_method(settings: ViewMeanSettings, name: str = "view-mean") -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return view_mean(batch.seen, settings), state

    return Method(name, "episodic", "none", settings.views, 0, settings, no_cuts, run)
