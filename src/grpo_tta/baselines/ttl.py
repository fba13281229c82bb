"""TTL (Imam et al., arXiv 2407.15913): low-rank deltas on the last attention blocks, by weighted entropy over all views.

How this differs from the paper: the deltas are B @ A without LoRA's alpha / r factor; the weights exp(margin - H) are
constants of the step (no gradient flows through them); AdamW's decay is torch's default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from grpo_tta.backbones.base import Backbone
from grpo_tta.baselines.common import tune_from_tokens
from grpo_tta.config.checks import check_at_least
from grpo_tta.engine.distributions import entropy
from grpo_tta.engine.interface import Adaptation, Cost, ImageBatch, Method, State
from grpo_tta.engine.optim import Adam
from grpo_tta.engine.parameters import LowRank, TunableParameters
from grpo_tta.engine.policy import Policy


@final
@dataclass(frozen=True)
class TTLSettings:
    """
    Attributes:
        views: V; all enter the loss.
        last_blocks: deltas in the last n blocks (9 to 11 of 12), or in all where there are fewer.
        rank: of the deltas on query and value.
        margin: views of lower entropy (nats) weigh more than one.
        steps: of AdamW.
        learning_rate, weight_decay: of AdamW.
    """

    views: int = 64
    last_blocks: int = 3
    rank: int = 16
    margin: float = 0.4
    steps: int = 1
    learning_rate: float = 5e-3
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        check_at_least("views", self.views, 1)
        check_at_least("steps", self.steps, 1)
        LowRank(self.rank, self.last_blocks)
        Adam(self.learning_rate, weight_decay=self.weight_decay)

    def tune(self, backbone: Backbone) -> TunableParameters:
        return LowRank(self.rank, min(self.last_blocks, len(backbone.blocks)))(backbone)


def weighted_confidence(log_probs: Tensor, margin: float) -> Tensor:
    """-1/V sum_v exp(margin - H_v) H_v, the negative of TTL's loss: `[B, V, C]` -> `[B]`."""
    H = entropy(log_probs)
    return -((margin - H.detach()).exp() * H).mean(1)


def ttl(policy: Policy, batch: ImageBatch, settings: TTLSettings) -> Adaptation:
    """Predicts view 0 after the steps; V + share * (steps * V + 1) forward and share * steps * V backward passes, where
    share is that of the blocks from the first tuned one on."""
    s = settings
    views = batch.encoded.log_probs[:, : s.views]
    everything = torch.arange(s.views, device=views.device).expand(len(views), s.views)

    def gain(log_probs: Tensor, images: slice) -> Tensor:
        return weighted_confidence(log_probs, s.margin)

    optimizer = Adam(s.learning_rate, weight_decay=s.weight_decay)
    after = tune_from_tokens(policy, batch, everything, gain, s.tune, s.steps, optimizer)
    share = s.tune(policy.backbone).share_of(policy.backbone)
    passes = share * s.steps * s.views
    return Adaptation(views[:, 0], after, Cost(s.views + passes + share, passes))


def ttl_method(settings: TTLSettings, name: str = "ttl") -> Method:
    def cached_blocks(backbone: Backbone) -> Sequence[int]:
        return (settings.tune(backbone).first_block,)

    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return ttl(policy, batch, settings), state

    return Method(name, "episodic", "none", settings.views, 0, settings, cached_blocks, run)
