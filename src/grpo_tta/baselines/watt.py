"""WATT (Osowiechi et al., arXiv 2406.13875): one adaptation per template, and the average of their weights.

A round takes `inner_steps` on each template (pseudo-labels from that template, transductive loss) and averages the
weights reached; `rounds` such rounds follow one another. `sequential` (WATT-S) starts a template where the one before
it stopped, `parallel` (WATT-P) where the round began. Predictions use the mean of the templates' text features.

How this differs from the paper: the templates are the task's own ensemble, at most `templates` of them; Adam starts
afresh at each template; the target carries no gradient, 1 / tau is the model's own logit scale, and a norm before the
first block stays as it is. The parameters are forgotten after each piece of `update_size` images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta.baselines.common import (
    class_log_probs,
    norms_from_the_start,
    shared_features,
    template_features,
    transductive_agreement,
)
from grpo_tta.config.checks import check_at_least, check_choice, check_positive
from grpo_tta.engine.interface import (
    Adaptation,
    Cost,
    ImageBatch,
    Method,
    State,
    by_minibatches,
)
from grpo_tta.engine.loop import Params, gradient_of, gradient_steps
from grpo_tta.engine.optim import Adam
from grpo_tta.engine.parameters import NormAffine, TunableParameters
from grpo_tta.engine.policy import Policy

Order = Literal["sequential", "parallel"]


@final
@dataclass(frozen=True)
class WATTSettings:
    """
    Attributes:
        update_size: images adapted to together; the last of a batch may be fewer.
        templates: H, how many of the ensemble's templates, the first ones.
        inner_steps: L, on each template in each round.
        rounds: M, each ended by an average of weights.
        order: `sequential` or `parallel`.
        learning_rate: of Adam.
    """

    update_size: int = 128
    templates: int = 8
    inner_steps: int = 2
    rounds: int = 5
    order: Order = "sequential"
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        check_at_least("update_size", self.update_size, 1)
        check_at_least("templates", self.templates, 1)
        check_at_least("inner_steps", self.inner_steps, 1)
        check_at_least("rounds", self.rounds, 1)
        check_positive("learning_rate", self.learning_rate)
        check_choice("order", self.order, ("sequential", "parallel"))


def average_weights(reached: Sequence[Params]) -> Params:
    """The mean of several sets of parameters, as new leaves."""
    return {name: torch.stack([params[name].detach() for params in reached]).mean(0).requires_grad_() for name in reached[0]}


def _on_template(
    policy: Policy, tokens: Tensor, tunable: TunableParameters, params: Params, text: Tensor, settings: WATTSettings
) -> Params:
    """`inner_steps` on one template's text features `[C, D]`."""

    def agreement(params: Mapping[str, Tensor]) -> Tensor:
        images = shared_features(policy, tokens, tunable, params)
        prompts = text[(images.detach() @ text.T).argmax(-1)]  # [N, D]
        return transductive_agreement(images, prompts, policy.backbone.logit_scale)

    return gradient_steps(params, gradient_of(agreement), Adam(settings.learning_rate).start(), settings.inner_steps)


def watt_step(policy: Policy, batch: ImageBatch, settings: WATTSettings) -> Adaptation:
    """Adapts to N images together and predicts them; rounds * H * inner_steps backward passes per image and one forward
    pass more than that; C * H text passes once per task."""
    tunable = NormAffine()(policy.backbone)
    tokens = batch.encoded.tokens[tunable.first_block][:, 0]  # [N, T, W]
    texts = template_features(policy)[: settings.templates]  # [H, C, D]
    centre = tunable.start(1)
    for _ in range(settings.rounds):
        params, reached = centre, []
        for text in texts:
            begin = params if settings.order == "sequential" else centre
            params = _on_template(policy, tokens, tunable, begin, text, settings)
            reached.append(params)
        centre = average_weights(reached)
    with torch.no_grad():
        images = shared_features(policy, tokens, tunable, centre)
        after = class_log_probs(policy, images, F.normalize(texts.mean(0), dim=-1))
    passes = settings.rounds * len(texts) * settings.inner_steps
    return Adaptation(batch.encoded.log_probs[:, 0], after, Cost(passes + 1.0, passes))


def watt_method(settings: WATTSettings, name: str = "watt") -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return by_minibatches(
            lambda some, state: (watt_step(policy, some, settings), state), batch, settings.update_size, state
        )

    return Method(name, "batch", "none", 1, 0, settings, norms_from_the_start, run, reads_text=True)
