"""Tent (Wang et al., arXiv 2006.10726): entropy of the predictions on each batch, by the affine of the norms, online.

How this differs from the paper: a ViT's layer norms keep no batch statistics, so only their affine is tuned (as those
who run Tent on CLIP do), and a norm before the first block (CLIP's ln_pre) stays as it is. As in the paper, a batch is
predicted by the very pass whose entropy then makes the update, so what a batch teaches serves the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch

from grpo_tta.backbones.base import Backbone
from grpo_tta.baselines.checks import check_at_least, check_positive
from grpo_tta.engine.interface import ImageBatch, Method, State
from grpo_tta.engine.minibatches import join, pieces
from grpo_tta.engine.optim import Update, load_shared, save_shared
from grpo_tta.engine.parameters import make_plan
from grpo_tta.engine.policy import Policy
from grpo_tta.method import objective
from grpo_tta.method.grpo import Adaptation, Cost


@final
@dataclass(frozen=True)
class TentSettings:
    """
    Attributes:
        update_size: images a step is taken on; the last of a batch may be fewer.
        learning_rate: of Adam; one step a piece.
    """

    update_size: int = 64
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        check_at_least("update_size", self.update_size, 1)
        check_positive("learning_rate", self.learning_rate)


def tent_step(policy: Policy, batch: ImageBatch, settings: TentSettings, state: State) -> tuple[Adaptation, State]:
    """Predicts N images of one piece and takes a step on mean_N H(p_n); one forward and one backward pass an image.

    The state holds the shared parameters `[1, ...]` and Adam's moments; an empty one starts from the frozen model.
    """
    plan = make_plan(policy.backbone, "norm")
    # The images of the piece share one set of parameters: to the plan they are the views of a single image.
    tokens = batch.seen.tokens[plan.first_block][:, 0][None]  # [1, N, T, W]
    update = Update("adam", settings.learning_rate, None)
    tuned = load_shared(state, plan.start(1), update)
    with torch.enable_grad():
        log_probs = policy.adapted(tokens, plan, tuned)  # [1, N, C]
        confidence = -objective.entropy(log_probs).mean()
        gradients = torch.autograd.grad(confidence, list(tuned.values()))
    one = torch.ones(1, dtype=torch.bool, device=tokens.device)
    moved, _ = update.ascend(tuned, gradients, one)
    adaptation = Adaptation(batch.seen.log_probs[:, 0], log_probs[0].detach(), Cost(1.0, 1.0))
    return adaptation, save_shared(moved, update)


def tent_method(settings: TentSettings, name: str = "tent") -> Method:
    def cuts(backbone: Backbone) -> Sequence[int]:
        return (make_plan(backbone, "norm").first_block,)

    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        done = []
        for piece in pieces(batch, settings.update_size):
            adaptation, state = tent_step(policy, piece, settings, state)
            done.append(adaptation)
        return join(done), state

    return Method(name, "online", "none", 1, 0, settings, cuts, run)
