"""From decoded pictures to the views and copies of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from grpo_tta.towers import Tower
from grpo_tta.views import PictureViews, ViewSettings


def prepare(
    tower: Tower, images: Sequence[Image.Image], image_ids: Sequence[str], settings: ViewSettings, seed: int
) -> list[PictureViews]:
    """B decoded RGB pictures, ready to be cut into views on the tower's device."""
    return [
        PictureViews(image, tower.preprocess(image).to(tower.device), name, seed, settings, tower.mean, tower.std)
        for image, name in zip(images, image_ids, strict=True)
    ]


def make_batch(
    tower: Tower, images: Sequence[Image.Image], image_ids: Sequence[str], settings: ViewSettings, seed: int
) -> tuple[Tensor, Tensor]:
    """Views `[B, V, 3, S, S]` and copies `[B, P, 3, S, S]` of B decoded RGB pictures, on the tower's device."""
    prepared = prepare(tower, images, image_ids, settings, seed)
    views = torch.stack([picture.views(range(settings.views)) for picture in prepared])
    return views, torch.stack([picture.copies() for picture in prepared])
