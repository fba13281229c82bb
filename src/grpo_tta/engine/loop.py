"""The loop that the encoder-tuning baselines share: a few AdamW steps up a gain, each image for itself, then view 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from grpo_tta.backbones.base import Backbone
from grpo_tta.engine.interface import ImageBatch, no_cuts
from grpo_tta.engine.optim import Update
from grpo_tta.engine.own_weights import OwnWeights, encode, read_parameters
from grpo_tta.engine.parameters import Plan, make_plan
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError
from grpo_tta.method.grpo import take_views

EncoderPart = Literal["norm", "whole"]
Gain = Callable[[Tensor, slice], Tensor]
"""(log-probabilities `[n, M, C]` of the chosen views of n images, which images of the batch) -> `[n]`, to be raised."""


def check_part(tuned: EncoderPart) -> None:
    """
    Raises:
        UserError: neither of the two.
    """
    if tuned not in ("norm", "whole"):
        raise UserError(f"Unknown part of the encoder {tuned!r}; choose norm or whole.")


def climb(
    forward: Callable[[Tensor, Mapping[str, Tensor]], Tensor],
    gain: Callable[[Tensor], Tensor],
    chosen: Tensor,
    first: Tensor,
    tuned: dict[str, Tensor],
    steps: int,
    update: Update,
) -> Tensor:
    """Raises `gain(forward(chosen, tuned))`, summed over images, and returns the adapted log-probabilities of view 0.

    Args:
        forward: (inputs `[n, M, ...]`, parameters) -> log-probabilities `[n, M, C]`.
        gain: `[n, M, C]` -> `[n]`.
        chosen: `[n, M, ...]`, what the steps see.
        first: `[n, 1, ...]`, view 0.
        tuned: leaves with a leading image axis n.

    Returns:
        `[n, C]`.
    """
    everyone = torch.ones(len(chosen), dtype=torch.bool, device=chosen.device)
    for _ in range(steps):
        with torch.enable_grad():
            total = gain(forward(chosen, tuned)).sum()
            gradients = torch.autograd.grad(total, list(tuned.values()))
        tuned, _ = update.ascend(tuned, gradients, everyone)
    with torch.no_grad():
        return forward(first, tuned)[:, 0]


def climb_plan(
    policy: Policy, batch: ImageBatch, selected: Tensor, gain: Gain, plan: Plan, steps: int, update: Update
) -> Tensor:
    """`climb` over the parameters of a plan, all images at once, from the tokens kept at its first block: `[B, C]`."""
    tokens = batch.seen.tokens[plan.first_block]  # [B, V, T, W]
    B = len(tokens)
    return climb(
        lambda inputs, tuned: policy.adapted(inputs, plan, tuned),
        lambda log_probs: gain(log_probs, slice(0, B)),
        take_views(tokens, selected),
        tokens[:, :1],
        plan.start(B),
        steps,
        update,
    )


def encoder_cuts(backbone: Backbone, tuned: EncoderPart) -> Sequence[int]:
    """Tokens that `climb_encoder` needs: those before the first block, or none where the pixels are read again."""
    return (0,) if tuned == "norm" else no_cuts(backbone)


def climb_encoder(
    policy: Policy,
    batch: ImageBatch,
    selected: Tensor,
    gain: Gain,
    tuned: EncoderPart,
    steps: int,
    learning_rate: float,
    weight_decay: float,
) -> Tensor:
    """`climb` on the visual encoder with AdamW: the affine of its norms (all images at once), or the whole of it (image
    by image, from the pixels, on float32 clones of its weights). Returns `[B, C]`.

    With `norm` a norm that lies before the first block (CLIP's ln_pre) stays as it is.
    """
    if tuned == "norm":
        plan = make_plan(policy.backbone, "norm")
        update = Update("adam", learning_rate, None, weight_decay)
        return climb_plan(policy, batch, selected, gain, plan, steps, update)
    weights = read_parameters(policy.backbone, batch.views[0, :1])

    def forward(pixels: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        with OwnWeights({id(weights[name]): value[0] for name, value in own.items()}):
            features = encode(policy.backbone, pixels[0])
        return policy.log_probs(features)[None]

    out = []
    for b, views in enumerate(batch.views):
        clones = {name: weight.detach().float()[None].clone().requires_grad_() for name, weight in weights.items()}
        update = Update("adam", learning_rate, None, weight_decay)

        def own_gain(log_probs: Tensor, b: int = b) -> Tensor:
            return gain(log_probs, slice(b, b + 1))

        out.append(climb(forward, own_gain, views[selected[b]][None], views[None, :1], clones, steps, update))
    return torch.cat(out)
