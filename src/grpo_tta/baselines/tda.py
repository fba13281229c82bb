"""TDA (Karmanov et al., arXiv 2403.18293): two caches of features seen along the stream, without any update.

The positive cache holds a few sure images per predicted class and raises that class for similar images; the negative
cache holds a few unsure ones and lowers the classes that they made plausible. How this differs from the paper: only the
untouched image is used, not the mean of confident crops that its experiments on ImageNet variants take; the same
settings serve every data set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from grpo_tta.config.checks import check_at_least, check_positive
from grpo_tta.engine.distributions import entropy
from grpo_tta.engine.interface import Adaptation, Cost, ImageBatch, Method, State, no_cached_blocks
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError


@final
@dataclass(frozen=True)
class TDASettings:
    """Image by image: `update_size` is one and no setting.

    Attributes:
        positive_shots, negative_shots: entries per predicted class.
        positive_alpha, negative_alpha: weights of the caches, in units of logits.
        positive_beta, negative_beta: sharpness of exp(-beta (1 - cos)).
        entropy_low, entropy_high: an image enters the negative cache if its entropy in nats over log2 C lies strictly
            between (so in the official code).
        probability_floor: a negative entry lowers the classes whose probability was above.
    """

    update_size: ClassVar[int] = 1

    positive_shots: int = 3
    positive_alpha: float = 2.0
    positive_beta: float = 5.0
    negative_shots: int = 2
    negative_alpha: float = 0.117
    negative_beta: float = 1.0
    entropy_low: float = 0.2
    entropy_high: float = 0.5
    probability_floor: float = 0.03

    def __post_init__(self) -> None:
        check_at_least("positive_shots", self.positive_shots, 1)
        check_at_least("negative_shots", self.negative_shots, 1)
        check_at_least("positive_alpha", self.positive_alpha, 0)
        check_at_least("negative_alpha", self.negative_alpha, 0)
        check_positive("positive_beta", self.positive_beta)
        check_positive("negative_beta", self.negative_beta)
        if not 0 <= self.entropy_low < self.entropy_high <= 1:
            raise UserError(
                f"entropy_low and entropy_high must rise within [0, 1], not {self.entropy_low}, {self.entropy_high}."
            )
        if not 0 <= self.probability_floor < 1:
            raise UserError(f"probability_floor must lie in [0, 1), not {self.probability_floor}.")


def empty_caches(classes: int, width: int, settings: TDASettings, device: torch.device) -> State:
    """Caches without an entry: keys `[C, shots, D]`, entropies `[C, shots]` (infinite where a slot is free), and the
    classes that each negative entry lowers, `[C, shots, C]`."""
    C, P, N = classes, settings.positive_shots, settings.negative_shots
    return {
        "positive.keys": torch.zeros(C, P, width, device=device),
        "positive.entropy": torch.full((C, P), torch.inf, device=device),
        "negative.keys": torch.zeros(C, N, width, device=device),
        "negative.entropy": torch.full((C, N), torch.inf, device=device),
        "negative.lowers": torch.zeros(C, N, C, device=device),
    }


def free_slot(entropies: Tensor, entropy: Tensor) -> int | None:
    """Where an entry goes in a queue `[shots]`: a free slot, else that of the highest entropy if the new one is lower."""
    slot = int(entropies.argmax())
    return slot if entropy < entropies[slot] else None


def add_positive(caches: State, feature: Tensor, log_probs: Tensor) -> None:
    """Offers `[D]` and its prediction `[C]` to the positive cache, in place."""
    c, H = int(log_probs.argmax()), entropy(log_probs)
    slot = free_slot(caches["positive.entropy"][c], H)
    if slot is not None:
        caches["positive.keys"][c, slot], caches["positive.entropy"][c, slot] = feature, H


def add_negative(caches: State, feature: Tensor, log_probs: Tensor, settings: TDASettings) -> None:
    """Offers it to the negative cache, in place, if it is neither sure nor lost."""
    c, H = int(log_probs.argmax()), entropy(log_probs)
    # Nats over log2 C, as in the official code, to whose window of 0.2 to 0.5 it belongs.
    if not settings.entropy_low < float(H) / math.log2(len(log_probs)) < settings.entropy_high:
        return
    slot = free_slot(caches["negative.entropy"][c], H)
    if slot is not None:
        caches["negative.keys"][c, slot], caches["negative.entropy"][c, slot] = feature, H
        caches["negative.lowers"][c, slot] = (log_probs.exp() > settings.probability_floor).float()


def _affinity(keys: Tensor, entropies: Tensor, feature: Tensor, beta: float) -> Tensor:
    """exp(-beta (1 - <q, k>)), zero where a slot is free: `[C, shots]`."""
    return torch.exp(-beta * (1 - keys @ feature)) * entropies.isfinite()


def cache_logits(caches: State, feature: Tensor, settings: TDASettings) -> Tensor:
    """alpha+ sum over a class's positive entries of their affinity, minus alpha- sum over all negative entries of their
    affinity where they lower the class: `[C]`."""
    positive = _affinity(caches["positive.keys"], caches["positive.entropy"], feature, settings.positive_beta)
    negative = _affinity(caches["negative.keys"], caches["negative.entropy"], feature, settings.negative_beta)
    lowered = torch.einsum("cs,csk->k", negative, caches["negative.lowers"])
    return settings.positive_alpha * positive.sum(-1) - settings.negative_alpha * lowered


def tda(policy: Policy, batch: ImageBatch, settings: TDASettings, state: State) -> tuple[Adaptation, State]:
    """Image by image: both caches take the image, then logits = s cos + cache logits; one forward pass.

    The state holds the caches; an empty one starts a stream.
    """
    features, log_probs = batch.encoded.features[:, 0], batch.encoded.log_probs[:, 0]
    keys = policy.directions(features)
    C, D = policy.classes, keys.shape[-1]
    caches = {name: value.to(features.device).clone() for name, value in state.items()}
    caches = caches or empty_caches(C, D, settings, features.device)
    logits = policy.backbone.logit_scale * features @ policy.text_features.T  # [B, C]
    after = []
    for key, said, own in zip(keys, log_probs, logits, strict=True):
        add_positive(caches, key, said)
        add_negative(caches, key, said, settings)
        after.append((own + cache_logits(caches, key, settings)).log_softmax(-1))
    return Adaptation(log_probs, torch.stack(after), Cost(1.0)), caches


def tda_method(settings: TDASettings, name: str = "tda") -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return tda(policy, batch, settings, state)

    return Method(name, "online", "none", 1, 0, settings, no_cached_blocks, run)
