"""Encoder entropy: TPT's loss on the visual encoder, the control without outside reward of RLCF's authors.

MEMO (Zhang et al., arXiv 2110.09506) minimises the entropy of the mean prediction over views by tuning the model; TPT
(arXiv 2209.07511) keeps the 10 % most confident views. How this differs: settings are those of RLCF's encoder tuning
(arXiv 2305.18010), for the norms too, where a rate of 1e-5 moves next to nothing; norm-only leaves a norm before the
first block (CLIP's ln_pre) as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from grpo_tta.backbones.base import Backbone
from grpo_tta.baselines.common import ENCODER_PARTS, EncoderPart, encoder_cached_blocks, tune_encoder
from grpo_tta.config.checks import check_at_least, check_choice, check_selected
from grpo_tta.engine.distributions import entropy, log_mean_probs, most_confident
from grpo_tta.engine.interface import Adaptation, Cost, ImageBatch, Method, State
from grpo_tta.engine.optim import Adam
from grpo_tta.engine.policy import Policy


@final
@dataclass(frozen=True)
class EncoderEntropySettings:
    """
    Attributes:
        views: V.
        selected: M, how many views of lowest entropy enter the loss; chosen once.
        tuned: `norm` (affine of the norms) or `whole` (every weight of the visual encoder).
        steps: of AdamW.
        learning_rate, weight_decay: of AdamW.
    """

    views: int = 64
    selected: int = 6
    tuned: EncoderPart = "norm"
    steps: int = 3
    learning_rate: float = 1e-5
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        check_selected(self.selected, self.views)
        check_choice("part of the encoder", self.tuned, ENCODER_PARTS)
        check_at_least("steps", self.steps, 1)
        self.optimizer()

    def optimizer(self) -> Adam:
        return Adam(self.learning_rate, weight_decay=self.weight_decay)


def mean_confidence(log_probs: Tensor) -> Tensor:
    """-H(1/M sum_v p_v), the negative of MEMO's loss: `[B, M, C]` -> `[B]`."""
    return -entropy(log_mean_probs(log_probs))


def encoder_entropy(policy: Policy, batch: ImageBatch, settings: EncoderEntropySettings) -> Adaptation:
    """Predicts view 0 after the steps; V + steps * M + 1 forward and steps * M backward passes."""
    s = settings
    views = batch.encoded.log_probs[:, : s.views]
    selected = most_confident(views, s.selected)

    def gain(log_probs: Tensor, images: slice) -> Tensor:
        return mean_confidence(log_probs)

    after = tune_encoder(policy, batch, selected, gain, s.tuned, s.steps, s.optimizer())
    passes = s.steps * s.selected
    return Adaptation(views[:, 0], after, Cost(s.views + passes + 1.0, passes))


def encoder_entropy_method(settings: EncoderEntropySettings, name: str = "encoder-entropy") -> Method:
    def cached_blocks(backbone: Backbone) -> Sequence[int]:
        return encoder_cached_blocks(backbone, settings.tuned)

    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return encoder_entropy(policy, batch, settings), state

    return Method(name, "episodic", "none", settings.views, 0, settings, cached_blocks, run)
