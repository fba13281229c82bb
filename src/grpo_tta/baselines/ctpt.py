"""C-TPT (Yoon et al., ICLR 2024, arXiv 2403.14119): TPT whose prompts are kept apart, for the sake of calibration.

Beside TPT's loss the step raises the dispersion of the text features, lambda mean_c |t_c - mean_k t_k|: prompts whose
features lie apart were found to be better calibrated. Everything else is TPT's (`baselines.tpt`), its departures included.

The official code has lambda = 50 for the fine-grained sets and 20 for ImageNet and its variants; the default is the latter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from torch import Tensor

from grpo_tta.baselines.tpt import TPTSettings, tpt
from grpo_tta.config.checks import check_at_least
from grpo_tta.engine.interface import Adaptation, ImageBatch, Method, State, no_cached_blocks
from grpo_tta.engine.policy import Policy


@final
@dataclass(frozen=True)
class CTPTSettings:
    """
    Attributes:
        tpt: of the prompt tuning itself.
        dispersion: lambda, weight of the text features' mean distance from their centre.
    """

    tpt: TPTSettings = field(default_factory=TPTSettings)
    dispersion: float = 20.0

    def __post_init__(self) -> None:
        check_at_least("dispersion", self.dispersion, 0)


def dispersion(text: Tensor) -> Tensor:
    """mean_c |t_c - mean_k t_k|: `[B, C, D]` -> `[B]`."""
    return (text - text.mean(1, keepdim=True)).norm(dim=-1).mean(1)


def ctpt_method(settings: CTPTSettings, name: str = "ctpt") -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return tpt(policy, batch, settings.tpt, lambda text: settings.dispersion * dispersion(text)), state

    return Method(name, "episodic", "none", settings.tpt.views, 0, settings, no_cached_blocks, run, reads_text=True)
