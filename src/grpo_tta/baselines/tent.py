"""Tent (Wang et al., arXiv 2006.10726): entropy of the predictions on each batch, by the affine of the norms, online.

How this differs from the paper: a ViT's layer norms keep no batch statistics, so only their affine is tuned (as those
who run Tent on CLIP do), and a norm before the first block (CLIP's ln_pre) stays as it is. As in the paper, a batch is
predicted by the very pass whose entropy then makes the update, so what a batch teaches serves the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from grpo_tta.baselines.common import norms_from_the_start
from grpo_tta.config.checks import check_at_least, check_positive
from grpo_tta.engine.distributions import entropy
from grpo_tta.engine.interface import (
    Adaptation,
    Cost,
    ImageBatch,
    Method,
    State,
    by_minibatches,
)
from grpo_tta.engine.loop import gradient_of, gradient_steps
from grpo_tta.engine.optim import Adam, load_shared, save_shared
from grpo_tta.engine.parameters import NormAffine
from grpo_tta.engine.policy import Policy


@final
@dataclass(frozen=True)
class TentSettings:
    """
    Attributes:
        update_size: images a step is taken on; the last of a batch may be fewer.
        learning_rate: of Adam; one step per minibatch.
    """

    update_size: int = 64
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        check_at_least("update_size", self.update_size, 1)
        check_positive("learning_rate", self.learning_rate)


def tent_step(policy: Policy, batch: ImageBatch, settings: TentSettings, state: State) -> tuple[Adaptation, State]:
    """Predicts N images of one minibatch and takes a step on mean_N H(p_n); one forward and one backward pass per image.

    The state holds the shared parameters `[1, ...]` and Adam's moments; an empty one starts from the frozen model.
    """
    tunable = NormAffine()(policy.backbone)
    # The images of a minibatch share one set of parameters: to the backbone they are the views of a single image.
    tokens = batch.encoded.tokens[tunable.first_block][:, 0][None]  # [1, N, T, W]
    update = Adam(settings.learning_rate).start()
    predicted: list[Tensor] = []

    def confidence(params: Mapping[str, Tensor]) -> Tensor:
        log_probs = policy.adapted(tokens, tunable, params)  # [1, N, C]
        predicted.append(log_probs[0].detach())
        return -entropy(log_probs).mean()

    params = gradient_steps(load_shared(state, tunable.start(1), update), gradient_of(confidence), update, 1)
    adaptation = Adaptation(batch.encoded.log_probs[:, 0], predicted[0], Cost(1.0, 1.0))
    return adaptation, save_shared(params, update)


def tent_method(settings: TentSettings, name: str = "tent") -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return by_minibatches(lambda some, state: tent_step(policy, some, settings, state), batch, settings.update_size, state)

    return Method(name, "online", "none", 1, 0, settings, norms_from_the_start, run)
