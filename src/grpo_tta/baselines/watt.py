"""WATT (Osowiechi et al., arXiv 2406.13875): one adaptation per template, and the average of their weights.

A round takes `inner_steps` on each template (pseudo-labels from that template, transductive loss) and averages the
weights reached; `rounds` such rounds follow one another. `sequential` (WATT-S) starts a template where the one before
it stopped, `parallel` (WATT-P) where the round began. Predictions use the mean of the templates' text features.

How this differs from the paper: the templates are the task's own ensemble, at most `templates` of them; Adam starts
afresh at each template; the target carries no gradient, 1 / tau is the model's own logit scale, and a norm before the
first block stays as it is. The parameters are forgotten after each piece of `update_size` images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta.backbones.base import Backbone
from grpo_tta.baselines.checks import check_at_least, check_positive
from grpo_tta.baselines.prompt_features import read_off, template_features
from grpo_tta.baselines.transductive import shared_features, transductive_agreement
from grpo_tta.engine.interface import ImageBatch, Method, State
from grpo_tta.engine.minibatches import join, pieces
from grpo_tta.engine.optim import Update
from grpo_tta.engine.parameters import Plan, make_plan
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError
from grpo_tta.method.grpo import Adaptation, Cost

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
        if self.order not in ("sequential", "parallel"):
            raise UserError(f"Unknown order {self.order!r}; choose sequential or parallel.")


def average_weights(reached: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several sets of parameters, as new leaves."""
    return {name: torch.stack([tuned[name].detach() for tuned in reached]).mean(0).requires_grad_() for name in reached[0]}


def _on_template(
    policy: Policy, tokens: Tensor, plan: Plan, tuned: dict[str, Tensor], text: Tensor, settings: WATTSettings
) -> dict[str, Tensor]:
    """`inner_steps` on one template's text features `[C, D]`."""
    update = Update("adam", settings.learning_rate, None)
    one = torch.ones(1, dtype=torch.bool, device=tokens.device)
    for _ in range(settings.inner_steps):
        with torch.enable_grad():
            images = shared_features(policy, tokens, plan, tuned)
            prompts = text[(images.detach() @ text.T).argmax(-1)]  # [N, D]
            agreement = transductive_agreement(images, prompts, policy.backbone.logit_scale)
            gradients = torch.autograd.grad(agreement, list(tuned.values()))
        tuned, _ = update.ascend(tuned, gradients, one)
    return tuned


def watt_piece(policy: Policy, batch: ImageBatch, settings: WATTSettings) -> Adaptation:
    """Adapts to N images together and predicts them; rounds * H * inner_steps backward passes an image and one forward
    pass more than that; C * H text passes once per task."""
    plan = make_plan(policy.backbone, "norm")
    tokens = batch.seen.tokens[plan.first_block][:, 0]  # [N, T, W]
    texts = template_features(policy)[: settings.templates]  # [H, C, D]
    centre = plan.start(1)
    for _ in range(settings.rounds):
        tuned, reached = centre, []
        for text in texts:
            begin = tuned if settings.order == "sequential" else centre
            tuned = _on_template(policy, tokens, plan, begin, text, settings)
            reached.append(tuned)
        centre = average_weights(reached)
    with torch.no_grad():
        images = shared_features(policy, tokens, plan, centre)
        after = read_off(policy, images, F.normalize(texts.mean(0), dim=-1))
    passes = settings.rounds * len(texts) * settings.inner_steps
    return Adaptation(batch.seen.log_probs[:, 0], after, Cost(passes + 1.0, passes))


def watt_method(settings: WATTSettings, name: str = "watt") -> Method:
    def cuts(backbone: Backbone) -> Sequence[int]:
        return (make_plan(backbone, "norm").first_block,)

    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return join([watt_piece(policy, piece, settings) for piece in pieces(batch, settings.update_size)]), state

    return Method(name, "batch", "none", 1, 0, settings, cuts, run)
