"""SAR (Niu et al., ICLR 2023, arXiv 2302.12400): entropy of reliable images only, towards flat minima, with a way back.

On N images, with H the entropies at theta and R those below E0 = 0.4 log C:

    g1 = grad mean_R H(theta),   theta' = theta + rho g1 / |g1|,   R' = the images of R with H(theta') < E0,
    theta <- SGD with momentum along grad mean_R' H(theta'), taken at theta' and applied at theta.

The running mean of mean_R' H (0.9 old + 0.1 new) tells collapse: below 0.2 the model is reset. The affine of the norms is
tuned, but for the last quarter of the blocks (blocks 9 to 11 of a ViT, stage 4 of a ResNet) and the norms after them. A
minibatch is predicted before its update.

How this differs from the official code: after a reset the running mean is forgotten (the code writes the old one back, and
would reset again at once); a norm before the first block (CLIP's ln_pre) stays as it is; "the last quarter" stands for the
code's list of layer names. The threshold of 0.2 nats was chosen for 1,000 classes and is kept for any number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from grpo_tta.backbones.base import Backbone
from grpo_tta.config.checks import check_at_least, check_positive, check_share
from grpo_tta.engine.distributions import entropy
from grpo_tta.engine.interface import Adaptation, Cost, ImageBatch, Method, State, by_minibatches
from grpo_tta.engine.optim import gradient_norm
from grpo_tta.engine.parameters import NormAffine, TunableParameters
from grpo_tta.engine.policy import Policy

_AVERAGE = "entropy"


@final
@dataclass(frozen=True)
class SARSettings:
    """
    Attributes:
        update_size: images a step is taken on; the last of a batch may be fewer.
        margin: E0 as a share of log C, the entropy of knowing nothing.
        radius: rho, length of the step up.
        learning_rate: of SGD (that of the paper's ViT).
        momentum: of SGD.
        collapse: the model is reset where the running mean entropy in nats falls below.
        untuned: share of the blocks, the last ones, whose norms stay as they are.
    """

    update_size: int = 64
    margin: float = 0.4
    radius: float = 0.05
    learning_rate: float = 1e-3
    momentum: float = 0.9
    collapse: float = 0.2
    untuned: float = 0.25

    def __post_init__(self) -> None:
        check_at_least("update_size", self.update_size, 1)
        check_positive("margin", self.margin)
        check_positive("radius", self.radius)
        check_positive("learning_rate", self.learning_rate)
        check_share("momentum", self.momentum)
        check_at_least("collapse", self.collapse, 0)
        check_share("untuned", self.untuned)

    def tune(self, backbone: Backbone) -> TunableParameters:
        """The norms of the first blocks, of one at least."""
        n = len(backbone.blocks)
        tuned = max(1, n - round(self.untuned * n))
        every = NormAffine()(backbone)
        kept = {
            name: parameter
            for name, parameter in every.replaced.items()
            if name.startswith("blocks.") and int(name.split(".")[1]) < tuned
        }
        return TunableParameters(0, kept or every.replaced, {}, {name: every.shapes[name] for name in kept or every.replaced})


def reliable_mean(entropies: Tensor, reliable: Tensor) -> Tensor:
    """The mean over the reliable images, zero where there is none: `[N]`, bool `[N]` -> a number."""
    return (entropies * reliable).sum() / reliable.sum().clamp_min(1)


def sharpest(params: Mapping[str, Tensor], gradients: Sequence[Tensor], radius: float) -> dict[str, Tensor]:
    """theta + rho g / |g|: leaves `[1, ...]` where the entropy is about the highest within the radius."""
    length = gradient_norm(gradients)[0] + 1e-12
    return {
        name: (value.detach() + radius * gradient / length).requires_grad_()
        for (name, value), gradient in zip(params.items(), gradients, strict=True)
    }


def sar_step(policy: Policy, batch: ImageBatch, settings: SARSettings, state: State) -> tuple[Adaptation, State]:
    """Predicts N images of one minibatch and takes a step; two forward and two backward passes per image.

    The state holds parameters, velocities and the running mean entropy; an empty one starts from the frozen model, and is what
    a reset returns.
    """
    s, tunable = settings, settings.tune(policy.backbone)
    tokens = batch.encoded.tokens[0][:, 0][None]  # [1, N, T, W]
    margin = s.margin * math.log(policy.classes)
    device = tokens.device
    params = {
        name: state["params." + name].to(device).requires_grad_() if state else value
        for name, value in tunable.start(1).items()
    }

    def pass_at(params: Mapping[str, Tensor], allowed: Tensor) -> tuple[Tensor, Tensor, Tensor, Sequence[Tensor]]:
        """Log-probabilities `[N, C]`, the reliable among the allowed images, their mean entropy and its gradient."""
        with torch.enable_grad():
            log_probs = policy.adapted(tokens, tunable, params)[0]
            entropies = entropy(log_probs)
            reliable = allowed & (entropies.detach() < margin)
            mean = reliable_mean(entropies, reliable)
            gradients = torch.autograd.grad(mean, list(params.values()))
        return log_probs.detach(), reliable, mean.detach(), gradients

    everyone = torch.ones(tokens.shape[1], dtype=torch.bool, device=device)
    said, reliable, _, up = pass_at(params, everyone)
    _, still, mean, down = pass_at(sharpest(params, up, s.radius), reliable)

    moved: State = {}
    for (name, value), gradient in zip(params.items(), down, strict=True):
        velocity = gradient + (s.momentum * state["velocity." + name].to(device) if state else 0)
        moved |= {"velocity." + name: velocity, "params." + name: value.detach() - s.learning_rate * velocity}
    if bool(still.any()):
        average = 0.9 * state[_AVERAGE].to(device) + 0.1 * mean if _AVERAGE in state else mean
        moved[_AVERAGE] = average
        if bool(average < s.collapse):
            moved = {}
    elif _AVERAGE in state:
        moved[_AVERAGE] = state[_AVERAGE]
    return Adaptation(batch.encoded.log_probs[:, 0], said, Cost(2.0, 2.0)), moved


def _first_block(backbone: Backbone) -> Sequence[int]:
    return (0,)


def sar_method(settings: SARSettings, name: str = "sar") -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return by_minibatches(lambda some, state: sar_step(policy, some, settings, state), batch, settings.update_size, state)

    return Method(name, "online", "none", 1, 0, settings, _first_block, run)
