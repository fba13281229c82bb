"""From decoded images to the views and copies of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from grpo_tta.backbones.base import Backbone
from grpo_tta.images.views import ImageViews, ViewSettings


def prepare(
    backbone: Backbone, images: Sequence[Image.Image], image_ids: Sequence[str], settings: ViewSettings, seed: int
) -> list[ImageViews]:
    """B decoded RGB images, ready to be cut into views on the backbone's device."""
    return [
        ImageViews(image, backbone.preprocess(image).to(backbone.device), name, seed, settings, backbone.mean, backbone.std)
        for image, name in zip(images, image_ids, strict=True)
    ]


def make_batch(
    backbone: Backbone, images: Sequence[Image.Image], image_ids: Sequence[str], settings: ViewSettings, seed: int
) -> tuple[Tensor, Tensor]:
    """Views `[B, V, 3, S, S]` and copies `[B, P, 3, S, S]` of B decoded RGB images, on the backbone's device."""
    prepared = prepare(backbone, images, image_ids, settings, seed)
    views = torch.stack([image.views(range(settings.views)) for image in prepared])
    return views, torch.stack([image.content_free() for image in prepared])
