"""MERGE: stands in for `engine.encode.encode_for` until that lands; then this module goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from grpo_tta.engine.batches import make_batch
from grpo_tta.engine.interface import ImageBatch, Method, look, observe
from grpo_tta.engine.policy import Policy
from grpo_tta.images.views import ViewSettings


def encode_for(
    methods: Sequence[Method],
    policy: Policy,
    images: Sequence[Image.Image],
    image_ids: Sequence[str],
    settings: ViewSettings,
    seed: int,
) -> ImageBatch:
    """As many views as the most demanding method needs; early exit where one method runs alone."""
    if len(methods) == 1:
        return look(policy, images, tuple(image_ids), settings, seed, methods[0])
    counts = replace(settings, views=max(m.views for m in methods), copies=max(m.copies for m in methods))
    views, content_free = make_batch(policy.backbone, images, image_ids, counts, seed)
    encoded = observe(policy, views, content_free, methods)
    return ImageBatch(tuple(image_ids), views, content_free, encoded, seed)
