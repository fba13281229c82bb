"""BATCLIP (Maharana et al., ICCV 2025, arXiv 2412.02837): both encoders' norms along a stream, by entropy, by the match of
pseudo-class means with their prompts, and by the distance between these means.

For N images with features f (not normalised), pseudo-labels y = argmax p and the K classes among them, with means v_k over
the images of class k, one step of AdamW on the affine of all norms raises

    -mean_n H(p_n) + 1/K sum_k <v_k, t_k> + sum_{k != l} (1 - cos(v_k, v_l)).

As in the official code, a minibatch is predicted by the very pass whose gradient then makes the update. `batclip` tunes the
norms of both encoders and needs a text encoder that can be tuned; `batclip-visual` (not in the paper) leaves the text as it
is and runs on every backbone.

How this differs from the official code: no half precision, and a norm before the first block (CLIP's ln_pre) stays as it is.
The code has one setting per data set. The default is that of ImageNet-C (64 images, 5e-4); that of CIFAR-10-C is 200 images
and 1e-3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta.baselines.common import class_log_probs, norms_from_the_start
from grpo_tta.baselines.text_norms import PromptNorms, prompt_norms
from grpo_tta.config.checks import check_at_least
from grpo_tta.engine.distributions import entropy
from grpo_tta.engine.interface import Adaptation, Cost, ImageBatch, Method, State, by_minibatches
from grpo_tta.engine.loop import gradient_steps
from grpo_tta.engine.optim import Adam, load_shared, save_shared
from grpo_tta.engine.parameters import NormAffine
from grpo_tta.engine.policy import Policy


@final
@dataclass(frozen=True)
class BATCLIPSettings:
    """
    Attributes:
        update_size: images a step is taken on; the last of a batch may be fewer.
        tune_text: whether the text encoder's norms are tuned, too.
        learning_rate, weight_decay: of AdamW; one step per minibatch.
        chunk: classes whose prompts are encoded in one pass; bounds memory, changes nothing else.
    """

    update_size: int = 64
    tune_text: bool = True
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    chunk: int = 256

    def __post_init__(self) -> None:
        check_at_least("update_size", self.update_size, 1)
        check_at_least("chunk", self.chunk, 1)
        self.optimizer()

    def optimizer(self) -> Adam:
        return Adam(self.learning_rate, weight_decay=self.weight_decay)


def pseudo_class_means(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The classes among the labels and the mean feature of each: `[N, D]`, `[N]` -> `[K]`, `[K, D]`."""
    present, members = labels.unique(return_inverse=True)
    counts = torch.zeros_like(present, dtype=features.dtype).index_add(0, members, torch.ones_like(features[:, 0]))
    sums = features.new_zeros(len(present), features.shape[1]).index_add(0, members, features)
    return present, sums / counts[:, None]


def batclip_gain(log_probs: Tensor, features: Tensor, text: Tensor) -> Tensor:
    """What a step raises, a number: see the module.

    Args:
        log_probs: `[N, C]`.
        features: of the images, not normalised, `[N, D]`.
        text: unit text features, `[C, D]`.
    """
    present, means = pseudo_class_means(features, log_probs.detach().argmax(-1))
    matched = (means * text[present]).sum(-1).mean()
    directions = F.normalize(means, dim=-1)
    distances = 1 - directions @ directions.T
    apart = distances.sum() - distances.diagonal().sum()
    return matched + apart - entropy(log_probs).mean()


def _pull_back(prompts: PromptNorms, params: Mapping[str, Tensor], gradient: Tensor, chunk: int) -> Sequence[Tensor]:
    """Gradient with respect to the text norms, given that of the text features `[C, D]`, a chunk of classes at a time."""
    names = list(prompts.tunable.replaced)
    total = [torch.zeros_like(params[name]) for name in names]
    for classes in torch.arange(prompts.classes, device=gradient.device).split(chunk):
        with torch.enable_grad():
            features = prompts.encode(params, classes)
            part = torch.autograd.grad(features, [params[name] for name in names], gradient[classes])
        total = [whole + more for whole, more in zip(total, part, strict=True)]
    return total


def batclip_step(policy: Policy, batch: ImageBatch, settings: BATCLIPSettings, state: State) -> tuple[Adaptation, State]:
    """Predicts N images of one minibatch and takes a step; one forward and one backward pass per image.

    `Cost` counts image passes alone. With `tune_text` each minibatch also costs 2 * C * H forward and C * H backward passes of
    one prompt through the text encoder (one of the forward passes is the price of bounded memory).

    The state holds the shared parameters `[1, ...]` and the moments; an empty one starts from the frozen model.

    Raises:
        UserError: `tune_text` on a backbone whose text cannot be tuned.
    """
    visual = NormAffine()(policy.backbone)
    prompts = prompt_norms(policy) if settings.tune_text else None
    tokens = batch.encoded.tokens[visual.first_block][:, 0][None]  # [1, N, T, W]
    everyone = torch.arange(policy.classes, device=tokens.device)
    predicted: list[Tensor] = []

    def gradients(params: Mapping[str, Tensor]) -> Sequence[Tensor]:
        with torch.no_grad():
            text = policy.text_features.float()
            if prompts is not None:
                text = torch.cat([prompts.encode(params, classes) for classes in everyone.split(settings.chunk)])
        with torch.enable_grad():
            leaf = text.clone().requires_grad_()
            seen = policy.adapted_features(tokens, visual, {name: params[name] for name in visual.replaced})[0].float()
            own = policy.log_probs(seen) if prompts is None else class_log_probs(policy, F.normalize(seen, dim=-1), leaf)
            predicted.append(own.detach())
            *of_norms, of_text = torch.autograd.grad(
                batclip_gain(own, seen, leaf), [*(params[name] for name in visual.replaced), leaf]
            )
        return of_norms if prompts is None else [*of_norms, *_pull_back(prompts, params, of_text, settings.chunk)]

    start = visual.start(1) | ({} if prompts is None else prompts.tunable.start(1))
    update = settings.optimizer().start()
    params = gradient_steps(load_shared(state, start, update), gradients, update, 1)
    return Adaptation(batch.encoded.log_probs[:, 0], predicted[0], Cost(1.0, 1.0)), save_shared(params, update)


def batclip_method(settings: BATCLIPSettings, name: str = "batclip") -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return by_minibatches(
            lambda some, state: batclip_step(policy, some, settings, state), batch, settings.update_size, state
        )

    return Method(name, "online", "none", 1, 0, settings, norms_from_the_start, run, reads_text=True)
