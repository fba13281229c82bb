"""From decoded pictures to the views and copies of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from grpo_tta.towers import Tower
from grpo_tta.views import ViewSettings, make_views


def make_batch(
    tower: Tower,
    images: Sequence[Image.Image],
    image_ids: Sequence[str],
    settings: ViewSettings,
    seed: int,
    which: range | None = None,
) -> tuple[Tensor, Tensor]:
    """Views `[B, V, 3, S, S]` and copies `[B, P, 3, S, S]` of B decoded RGB pictures, on the tower's device.

    Args:
        which: only these views, and copies only with view 0 (see `make_views`).
    """
    made = [
        make_views(image, tower.preprocess(image).to(tower.device), name, seed, settings, tower.mean, tower.std, which)
        for image, name in zip(images, image_ids, strict=True)
    ]
    return torch.stack([views for views, _ in made]), torch.stack([copies for _, copies in made])
