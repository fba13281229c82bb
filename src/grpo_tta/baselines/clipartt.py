"""CLIPArTT (Hakim et al., arXiv 2405.00754): one prompt an image from its top classes, "a or b or c", and a transductive
target over the batch.

How this differs from the paper: the classes of an image's prompt are chosen anew at each step from the adapted model,
the target carries no gradient, 1 / tau is the model's own logit scale, and a norm before the first block stays as it is.
The parameters are forgotten after each piece of `update_size` images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from grpo_tta.baselines.common import class_log_probs, norms_from_the_start, shared_features, transductive_agreement
from grpo_tta.config.checks import check_at_least, check_positive
from grpo_tta.engine.interface import (
    Adaptation,
    Cost,
    ImageBatch,
    Method,
    State,
    by_minibatches,
)
from grpo_tta.engine.loop import gradient_of, gradient_steps
from grpo_tta.engine.optim import Adam
from grpo_tta.engine.parameters import NormAffine
from grpo_tta.engine.policy import Policy


@final
@dataclass(frozen=True)
class CLIPArTTSettings:
    """
    Attributes:
        update_size: images adapted to together; the last of a batch may be fewer.
        candidates: K classes in an image's prompt, or all where there are fewer.
        steps: of Adam.
        learning_rate: of Adam.
    """

    update_size: int = 128
    candidates: int = 3
    steps: int = 10
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        check_at_least("update_size", self.update_size, 1)
        check_at_least("candidates", self.candidates, 1)
        check_at_least("steps", self.steps, 1)
        check_positive("learning_rate", self.learning_rate)


def joined_labels(labels: Sequence[str], classes: Tensor) -> list[str]:
    """One "a or b or c" for each image, most probable class first: `[N, K]` -> N strings."""
    return [" or ".join(labels[c] for c in row) for row in classes.tolist()]


def _prompt_features(policy: Policy, classes: Tensor, known: dict[str, Tensor]) -> Tensor:
    """Unit text features `[N, D]` of each image's prompt; `known` keeps those of the minibatch so far."""
    template = policy.prompts.templates[0]
    prompts = [template.format(label) for label in joined_labels(policy.prompts.labels, classes)]
    new = sorted(set(prompts) - known.keys())
    if new:
        features = torch.nn.functional.normalize(policy.backbone.encode_text(new).float(), dim=-1)
        known |= dict(zip(new, features, strict=True))
    return torch.stack([known[prompt] for prompt in prompts])


def clipartt_step(policy: Policy, batch: ImageBatch, settings: CLIPArTTSettings) -> Adaptation:
    """Adapts to N images together and predicts them; steps + 1 forward and steps backward passes per image, and at most
    `steps` text passes (an image's prompt is encoded again only if its classes change).

    Raises:
        UserError: a prompt of K labels is longer than the model reads.
    """
    tunable = NormAffine()(policy.backbone)
    tokens = batch.encoded.tokens[tunable.first_block][:, 0]  # [N, T, W]
    scale, K = policy.backbone.logit_scale, min(settings.candidates, policy.classes)
    known: dict[str, Tensor] = {}

    def agreement(params: Mapping[str, Tensor]) -> Tensor:
        images = shared_features(policy, tokens, tunable, params)
        classes = class_log_probs(policy, images.detach(), policy.text_features).topk(K, dim=-1).indices
        return transductive_agreement(images, _prompt_features(policy, classes, known), scale)

    params = gradient_steps(tunable.start(1), gradient_of(agreement), Adam(settings.learning_rate).start(), settings.steps)
    with torch.no_grad():
        after = class_log_probs(policy, shared_features(policy, tokens, tunable, params), policy.text_features)
    return Adaptation(batch.encoded.log_probs[:, 0], after, Cost(settings.steps + 1.0, settings.steps))


def clipartt_method(settings: CLIPArTTSettings, name: str = "clipartt") -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return by_minibatches(
            lambda some, state: (clipartt_step(policy, some, settings), state), batch, settings.update_size, state
        )

    return Method(name, "batch", "none", 1, 0, settings, norms_from_the_start, run, reads_text=True)
