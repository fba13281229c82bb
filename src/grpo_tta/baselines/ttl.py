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
from grpo_tta.baselines.checks import check_at_least, check_positive
from grpo_tta.engine.interface import ImageBatch, Method, State
from grpo_tta.engine.loop import climb_plan
from grpo_tta.engine.optim import Update
from grpo_tta.engine.parameters import Plan, make_plan
from grpo_tta.engine.policy import Policy
from grpo_tta.method import objective
from grpo_tta.method.grpo import Adaptation, Cost


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
        check_at_least("last_blocks", self.last_blocks, 1)
        check_at_least("rank", self.rank, 1)
        check_at_least("steps", self.steps, 1)
        check_positive("learning_rate", self.learning_rate)
        check_at_least("weight_decay", self.weight_decay, 0)


def weighted_confidence(log_probs: Tensor, margin: float) -> Tensor:
    """-1/V sum_v exp(margin - H_v) H_v, the negative of TTL's loss: `[B, V, C]` -> `[B]`."""
    H = objective.entropy(log_probs)
    return -((margin - H.detach()).exp() * H).mean(1)


def _plan(backbone: Backbone, settings: TTLSettings) -> Plan:
    return make_plan(backbone, "lora", min(settings.last_blocks, len(backbone.blocks)), settings.rank)


def ttl(policy: Policy, batch: ImageBatch, settings: TTLSettings) -> Adaptation:
    """Predicts view 0 after the steps; V + share * (steps * V + 1) forward and share * steps * V backward passes, where
    share is that of the blocks from the first tuned one on."""
    s = settings
    plan = _plan(policy.backbone, s)
    views = batch.seen.log_probs[:, : s.views]
    everything = torch.arange(s.views, device=views.device).expand(len(views), s.views)

    def gain(log_probs: Tensor, images: slice) -> Tensor:
        return weighted_confidence(log_probs, s.margin)

    update = Update("adam", s.learning_rate, None, s.weight_decay)
    after = climb_plan(policy, batch, everything, gain, plan, s.steps, update)
    share = 1 - plan.first_block / len(policy.backbone.blocks)
    passes = share * s.steps * s.views
    return Adaptation(views[:, 0], after, Cost(s.views + passes + share, passes))


def ttl_method(settings: TTLSettings, name: str = "ttl") -> Method:
    def cuts(backbone: Backbone) -> Sequence[int]:
        return (_plan(backbone, settings).first_block,)

    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return ttl(policy, batch, settings), state

    return Method(name, "episodic", "none", settings.views, 0, settings, cuts, run)
