"""The loss that CLIPArTT and WATT share: the images of a batch, their prompts, and how both resemble each other."""

from __future__ import annotations

import torch
from torch import Tensor

from grpo_tta.engine.parameters import Plan
from grpo_tta.engine.policy import Policy


def transductive_target(images: Tensor, prompts: Tensor, scale: float) -> Tensor:
    """Q = softmax_j(s (S_v + S_t) / 2), S_v = <f_i, f_j> and S_t = <t_i, t_j>: unit `[N, D]` twice -> `[N, N]`."""
    return (scale * (images @ images.T + prompts @ prompts.T) / 2).softmax(-1)


def transductive_agreement(images: Tensor, prompts: Tensor, scale: float) -> Tensor:
    """mean_i sum_j Q_ij log softmax_j(s <f_i, t_j>), the negative cross-entropy towards a target that is held fixed.

    As the papers write it; the official codes transpose Q, which is not symmetric after its softmax.

    Args:
        images: unit features `[N, D]` of N images, carry the gradient.
        prompts: unit features `[N, D]` of a prompt for each.
        scale: the model's logit scale s, the papers' 1 / tau = 100 for CLIP.
    """
    with torch.no_grad():
        target = transductive_target(images, prompts, scale)
    return (target * (scale * images @ prompts.T).log_softmax(-1)).sum(-1).mean()


def shared_features(policy: Policy, tokens: Tensor, plan: Plan, tuned: dict[str, Tensor]) -> Tensor:
    """Unit features `[N, D]` of N images, `[N, T, W]`, that share one set of parameters `[1, ...]`."""
    features = policy.adapted_features(tokens[None], plan, tuned)[0]
    return torch.nn.functional.normalize(features.float(), dim=-1)
