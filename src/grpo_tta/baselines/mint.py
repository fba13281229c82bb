"""MINT (Bao et al., NeurIPS 2025, arXiv 2510.22127): variance between pseudo-classes, with knowledge that accumulates along
the stream and weights that start afresh at each minibatch.

For N images with unit features z, pseudo-labels y and the K classes among them, each with n_y images, one step of Adam on
the affine of the norms raises the variance between classes, total minus within,

    sum_n 1 / (K n_{y_n}) (|z_n - m|^2 - |z_n - m_{y_n}|^2),

where m and m_c are running means over the whole stream, this minibatch included, and carry no gradient. The gradient is
averaged over all minibatches so far, all of them taken at the frozen weights; the step starts from these weights with fresh
moments. The adapted features z' have running class means of their own, m'_c (zero for a class not seen), which draw the
prompts after n images:

    logits = s <z', normalise((1 - r) t_c + r m'_c)>,   r = n / (n + prior).

How this differs from the official code: a norm before the first block (CLIP's ln_pre) stays as it is, and so does a model's
own bias of the logits where it has one. The loss was read from the code of another paper's authors that runs MINT as a
baseline (SubTTA); of MINT's own repository only its settings were available to us: rate 0.007 for CIFAR-100-C and 0.015 for
ImageNet-C, prior 10,000, and 20 images. The default is the first rate, which a summary of the paper gives for a ViT-B.

Sizes: N images of a minibatch, C classes, D feature width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta.baselines.common import norms_from_the_start, shared_features
from grpo_tta.config.checks import check_at_least, check_positive
from grpo_tta.engine.interface import Adaptation, Cost, ImageBatch, Method, State, by_minibatches
from grpo_tta.engine.loop import gradient_of, gradient_steps
from grpo_tta.engine.optim import Adam
from grpo_tta.engine.parameters import NormAffine
from grpo_tta.engine.policy import Policy

_GRADIENT, _COUNT = "gradient.", "minibatches"


@final
@dataclass(frozen=True)
class MINTSettings:
    """
    Attributes:
        update_size: images a step is taken on; the last of a batch may be fewer.
        learning_rate: of Adam; one step per minibatch, from the frozen weights.
        prior: how many images' worth the prompts count beside the class means of the stream.
    """

    update_size: int = 20
    learning_rate: float = 7e-3
    prior: float = 10_000.0

    def __post_init__(self) -> None:
        check_at_least("update_size", self.update_size, 1)
        check_positive("learning_rate", self.learning_rate)
        check_positive("prior", self.prior)


@final
@dataclass(frozen=True)
class ClassSums:
    """Sums over the images of a stream, by pseudo-class.

    Attributes:
        sums: of the unit features, `[C, D]`.
        counts: of the images, `[C]`.
    """

    sums: Tensor
    counts: Tensor

    def add(self, features: Tensor, labels: Tensor) -> ClassSums:
        """With N more images: `[N, D]`, `[N]`."""
        return ClassSums(
            self.sums.index_add(0, labels, features),
            self.counts.index_add(0, labels, torch.ones_like(features[:, 0])),
        )

    @property
    def mean(self) -> Tensor:
        """Of all images, `[D]`."""
        return self.sums.sum(0) / self.counts.sum()

    @property
    def means(self) -> Tensor:
        """Of each class, `[C, D]`; zero where it has no image."""
        return self.sums / self.counts.clamp_min(1)[:, None]


def between_classes(features: Tensor, labels: Tensor, seen: ClassSums) -> Tensor:
    """sum_n 1 / (K n_{y_n}) (|z_n - m|^2 - |z_n - m_{y_n}|^2), a number: `[N, D]`, `[N]`."""
    here = torch.zeros_like(seen.counts).index_add(0, labels, torch.ones_like(features[:, 0]))
    weights = 1 / (here[labels] * (here > 0).sum())
    total = (features - seen.mean).square().sum(-1)
    within = (features - seen.means[labels]).square().sum(-1)
    return (weights * (total - within)).sum()


def drawn_prompts(text: Tensor, seen: ClassSums, prior: float) -> Tensor:
    """normalise((1 - r) t_c + r m_c) with r = n / (n + prior): `[C, D]`."""
    n = seen.counts.sum()
    return F.normalize(text.lerp(seen.means, n / (n + prior)), dim=-1)


def mint_step(policy: Policy, batch: ImageBatch, settings: MINTSettings, state: State) -> tuple[Adaptation, State]:
    """Adapts the frozen weights to N images of one minibatch and predicts them; two forward and one backward pass per image.

    The state holds both sets of class sums and the mean gradient; an empty one starts a stream.
    """
    tunable = NormAffine()(policy.backbone)
    tokens = batch.encoded.tokens[tunable.first_block][:, 0]  # [N, T, W]
    state = {key: value.to(tokens.device) for key, value in state.items()}
    text = policy.text_features.float()
    frozen, adapted = (
        ClassSums(state[key + ".sums"], state[key + ".counts"])
        if state
        else ClassSums(torch.zeros_like(text), torch.zeros_like(text[:, 0]))
        for key in ("frozen", "adapted")
    )
    seen, said = batch.encoded.features[:, 0], batch.encoded.log_probs[:, 0].argmax(-1)
    frozen = frozen.add(seen, said)
    # a tensor of an integer type: how many gradients the mean is of
    count = state[_COUNT] + 1 if state else torch.ones((), dtype=torch.long, device=tokens.device)
    means: dict[str, Tensor] = {}

    def gradients(params: Mapping[str, Tensor]) -> Sequence[Tensor]:
        found = gradient_of(lambda own: between_classes(shared_features(policy, tokens, tunable, own), said, frozen))(params)
        for name, gradient in zip(params, found, strict=True):
            before = state.get(_GRADIENT + name, gradient)
            means[_GRADIENT + name] = before + (gradient - before) / count
        return list(means.values())

    params = gradient_steps(tunable.start(1), gradients, Adam(settings.learning_rate).start(), 1)
    with torch.no_grad():
        features = shared_features(policy, tokens, tunable, params)
        plain = policy.log_probs(features)
        adapted = adapted.add(features, plain.argmax(-1))
        drawn = drawn_prompts(text, adapted, settings.prior)
        after = (plain + policy.backbone.logit_scale * features @ (drawn - text).T).log_softmax(-1)
    sums = {"frozen.sums": frozen.sums, "frozen.counts": frozen.counts}
    sums |= {"adapted.sums": adapted.sums, "adapted.counts": adapted.counts, _COUNT: count}
    return Adaptation(batch.encoded.log_probs[:, 0], after, Cost(2.0, 1.0)), sums | means


def mint_method(settings: MINTSettings, name: str = "mint") -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return by_minibatches(lambda some, state: mint_step(policy, some, settings, state), batch, settings.update_size, state)

    return Method(name, "online", "none", 1, 0, settings, norms_from_the_start, run, reads_text=True)
