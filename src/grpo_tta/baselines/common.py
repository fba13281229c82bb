"""What several baselines share: text features beside the policy's own, tuning the encoder up a gain, transductive losses.

Sizes: B images, V views, M selected views, C classes, H templates, D feature width, N images of a minibatch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from grpo_tta.backbones.base import Backbone
from grpo_tta.backbones.prompts import text_features
from grpo_tta.engine.distributions import take_views
from grpo_tta.engine.interface import ImageBatch, no_cached_blocks
from grpo_tta.engine.loop import gradient_of, gradient_steps
from grpo_tta.engine.optim import Adam, Optimizer
from grpo_tta.engine.own_weights import OwnWeights, encode, read_parameters
from grpo_tta.engine.parameters import NormAffine, TunableParameters, Tune
from grpo_tta.engine.policy import Policy

# Kept per policy: a baseline runs for every batch of a stream, and a read from disk each time would be charged to it.
_PER_TEMPLATE: WeakKeyDictionary[Policy, Tensor] = WeakKeyDictionary()

EncoderPart = Literal["norm", "whole"]
ENCODER_PARTS: tuple[EncoderPart, ...] = ("norm", "whole")
Gain = Callable[[Tensor, slice], Tensor]
"""(log-probabilities `[n, M, C]` of the selected views of n images, which images of the batch) -> `[n]`, to be raised."""


def template_features(policy: Policy) -> Tensor:
    """Unit text features of each template of the prompt ensemble alone, `[H, C, D]`; a classifier's rows as one template."""
    if not policy.has_text:
        return policy.text_features[None]
    if policy not in _PER_TEMPLATE:
        prompts = policy.prompts
        features = [text_features(policy.backbone, prompts.labels, (template,)) for template in prompts.ensemble]
        _PER_TEMPLATE[policy] = torch.stack(features)
    return _PER_TEMPLATE[policy]


def ensemble_features(policy: Policy) -> Tensor:
    """normalise(mean over templates of the unit text features), `[C, D]`."""
    return policy.scaled(template_features(policy).mean(0))


def class_log_probs(policy: Policy, features: Tensor, text: Tensor) -> Tensor:
    """log softmax_c(s <f, t_c>) for scaled features `[..., N, D]` and text features `[..., C, D]`: `[..., N, C]`."""
    return (policy.backbone.logit_scale * features @ text.transpose(-1, -2)).log_softmax(-1)


def norms_from_the_start(backbone: Backbone) -> Sequence[int]:
    """Tokens that tuning all norms needs: those before the first block."""
    return (NormAffine()(backbone).first_block,)


def encoder_cached_blocks(backbone: Backbone, part: EncoderPart) -> Sequence[int]:
    """Tokens that `tune_encoder` needs; none where the pixels are read again."""
    return norms_from_the_start(backbone) if part == "norm" else no_cached_blocks(backbone)


def tune_from_tokens(
    policy: Policy, batch: ImageBatch, selected: Tensor, gain: Gain, tune: Tune, steps: int, optimizer: Optimizer
) -> Tensor:
    """Raises `gain` on the selected views by some of the parameters, all images at once, each for itself.

    Returns:
        The adapted log-probabilities of view 0, `[B, C]`.
    """
    tunable = tune(policy.backbone)
    tokens = batch.encoded.tokens[tunable.first_block]  # [B, V, T, W]
    chosen, everyone = take_views(tokens, selected), slice(0, len(tokens))
    params = gradient_steps(
        tunable.start(len(tokens)),
        gradient_of(lambda params: gain(policy.adapted(chosen, tunable, params), everyone)),
        optimizer.start(),
        steps,
    )
    with torch.no_grad():
        return policy.adapted(tokens[:, :1], tunable, params)[:, 0]


def tune_encoder(
    policy: Policy, batch: ImageBatch, selected: Tensor, gain: Gain, part: EncoderPart, steps: int, optimizer: Adam
) -> Tensor:
    """Raises `gain` by the affine of the norms (all images at once), or by every weight of the visual encoder.

    The whole encoder is tuned image by image, from the pixels, on float32 clones of its weights. With `norm` a norm that lies
    before the first block (CLIP's ln_pre) stays as it is.

    Returns:
        The adapted log-probabilities of view 0, `[B, C]`.
    """
    if part == "norm":
        return tune_from_tokens(policy, batch, selected, gain, NormAffine(), steps, optimizer)
    weights = read_parameters(policy.backbone, batch.views[0, :1])

    def forward(pixels: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        with OwnWeights({id(weights[name]): value[0] for name, value in own.items()}):
            features = encode(policy.backbone, pixels)
        return policy.log_probs(features)[None]  # [1, n, C]

    def of_one(b: int) -> Tensor:
        views = batch.views[b]
        clones = {name: weight.detach().float()[None].clone().requires_grad_() for name, weight in weights.items()}
        own = gradient_steps(
            clones,
            gradient_of(lambda own: gain(forward(views[selected[b]], own), slice(b, b + 1))),
            optimizer.start(),
            steps,
        )
        with torch.no_grad():
            return forward(views[:1], own)[:, 0]

    return torch.cat([of_one(b) for b in range(len(batch.views))])


def shared_features(policy: Policy, tokens: Tensor, tunable: TunableParameters, params: Mapping[str, Tensor]) -> Tensor:
    """Unit features `[N, D]` of N images, `[N, T, W]`, that share one set of parameters `[1, ...]`."""
    return policy.scaled(policy.adapted_features(tokens[None], tunable, params)[0])


def transductive_target(images: Tensor, prompts: Tensor, scale: float) -> Tensor:
    """Q = softmax_j(s (S_v + S_t) / 2), S_v = <f_i, f_j> and S_t = <t_i, t_j>: unit `[N, D]` twice -> `[N, N]`."""
    return (scale * (images @ images.T + prompts @ prompts.T) / 2).softmax(-1)


def transductive_agreement(images: Tensor, prompts: Tensor, scale: float) -> Tensor:
    """mean_i sum_j Q_ij log softmax_j(s <f_i, t_j>), the negative cross-entropy towards a target that is held fixed.

    The loss that CLIPArTT and WATT share, as the papers write it; the official codes transpose Q, which is not symmetric after
    its softmax.

    Args:
        images: unit features `[N, D]` of N images, carry the gradient.
        prompts: unit features `[N, D]` of a prompt for each.
        scale: the model's logit scale s, the papers' 1 / tau = 100 for CLIP.
    """
    with torch.no_grad():
        target = transductive_target(images, prompts, scale)
    return (target * (scale * images @ prompts.T).log_softmax(-1)).sum(-1).mean()
