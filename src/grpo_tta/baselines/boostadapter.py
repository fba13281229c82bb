"""BoostAdapter (Zhang et al., arXiv 2410.15430): TDA whose positive cache also takes the image's own confident crops.

The crops of lowest entropy compete for the slots of their predicted classes by TDA's own rule, in a copy of the cache
that serves this image alone; what a stream carries on is TDA's caches. How this differs from the paper: the number of
slots stays TDA's, and the settings are TDA's for every data set.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, final

import torch

from grpo_tta.baselines.tda import TDASettings, add_negative, add_positive, cache_logits, empty_caches
from grpo_tta.config.checks import check_at_least, check_selected
from grpo_tta.engine.distributions import most_confident
from grpo_tta.engine.interface import Adaptation, Cost, ImageBatch, Method, State, no_cached_blocks
from grpo_tta.engine.policy import Policy


@final
@dataclass(frozen=True)
class BoostAdapterSettings:
    """Image by image: `update_size` is one and no setting.

    Attributes:
        views: V, the untouched image included.
        selected: M, how many crops of lowest entropy boost the cache; the untouched image is not one of them.
        tda: of the caches.
    """

    update_size: ClassVar[int] = 1

    views: int = 64
    selected: int = 6
    tda: TDASettings = field(default_factory=TDASettings)

    def __post_init__(self) -> None:
        check_at_least("views", self.views, 2)
        check_selected(self.selected, self.views - 1)


def boostadapter(policy: Policy, batch: ImageBatch, settings: BoostAdapterSettings, state: State) -> tuple[Adaptation, State]:
    """Image by image: TDA's caches take the image, a copy of them its M crops, then logits = s cos + cache logits of the
    copy; V forward passes. The state is TDA's."""
    encoded, tda = batch.encoded, settings.tda
    features, log_probs = encoded.features[:, : encoded.views], encoded.log_probs[:, : encoded.views]
    keys = policy.directions(features)
    C, D = policy.classes, keys.shape[-1]
    caches = {key: value.to(features.device).clone() for key, value in state.items()}
    caches = caches or empty_caches(C, D, tda, features.device)
    logits = policy.backbone.logit_scale * features[:, 0] @ policy.text_features.T  # [B, C]
    crops = 1 + most_confident(log_probs[:, 1:], settings.selected)  # [B, M]
    after = []
    for b, own in enumerate(logits):
        add_positive(caches, keys[b, 0], log_probs[b, 0])
        add_negative(caches, keys[b, 0], log_probs[b, 0], tda)
        boosted = {key: value.clone() if key.startswith("positive.") else value for key, value in caches.items()}
        for crop in crops[b]:
            add_positive(boosted, keys[b, crop], log_probs[b, crop])
        after.append((own + cache_logits(boosted, keys[b, 0], tda)).log_softmax(-1))
    return Adaptation(log_probs[:, 0], torch.stack(after), Cost(float(settings.views))), caches


def boostadapter_method(settings: BoostAdapterSettings, name: str = "boostadapter") -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return boostadapter(policy, batch, settings, state)

    return Method(name, "online", "none", settings.views, 0, settings, no_cached_blocks, run)
