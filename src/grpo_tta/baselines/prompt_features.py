"""Text features that baselines read beside the policy's own, kept per policy and in the text cache on disk."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from grpo_tta.backbones.prompts import text_features
from grpo_tta.engine.policy import Policy

# Read once per policy: a baseline runs for every batch of a stream, and a read from disk each time would be charged to it.
_PER_TEMPLATE: WeakKeyDictionary[Policy, Tensor] = WeakKeyDictionary()


def template_features(policy: Policy) -> Tensor:
    """Unit text features of each template of the prompt ensemble alone, `[H, C, D]`."""
    if policy not in _PER_TEMPLATE:
        prompts = policy.prompts
        features = [text_features(policy.backbone, prompts.labels, (template,)) for template in prompts.ensemble]
        _PER_TEMPLATE[policy] = torch.stack(features)
    return _PER_TEMPLATE[policy]


def ensemble_features(policy: Policy) -> Tensor:
    """normalise(mean over templates of the unit text features), `[C, D]`."""
    return torch.nn.functional.normalize(template_features(policy).mean(0), dim=-1)


def read_off(policy: Policy, features: Tensor, text: Tensor) -> Tensor:
    """log softmax_c(s <f, t_c>) for unit features `[..., N, D]` and unit text features `[..., C, D]`: `[..., N, C]`."""
    return (policy.backbone.logit_scale * features @ text.transpose(-1, -2)).log_softmax(-1)
