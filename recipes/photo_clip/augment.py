"""The field's augmentation on whole batches: random resized crops with flips.

No noise, blur, weather or compression: those are the shifts that the model is later measured under (the rule of
Hendrycks & Dietterich 2019). No change of colours either, as in CLIP's own training.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def crops(images: torch.Tensor, side: int, smallest: float, generator: torch.Generator) -> torch.Tensor:
    """Random resized crops, mirrored half of the time: uint8 `[B, 3, s, s]` -> float `[B, 3, side, side]` in -1 to 1.

    Args:
        smallest: least share of the area that a crop keeps.
    """
    B = len(images)
    area = torch.empty(B).uniform_(smallest, 1.0, generator=generator)
    ratio = torch.empty(B).uniform_(-0.28, 0.28, generator=generator).exp().sqrt()
    w, h = (area.sqrt() * ratio).clamp(max=1.0), (area.sqrt() / ratio).clamp(max=1.0)
    cx = (torch.rand(B, generator=generator) * 2 - 1) * (1 - w)
    cy = (torch.rand(B, generator=generator) * 2 - 1) * (1 - h)
    mirror = torch.where(torch.rand(B, generator=generator) < 0.5, -1.0, 1.0)
    zero = torch.zeros(B)
    theta = torch.stack([torch.stack([w * mirror, zero, cx], 1), torch.stack([zero, h, cy], 1)], 1)
    grid = F.affine_grid(theta, [B, 3, side, side], align_corners=False)
    return F.grid_sample(images.float() / 127.5 - 1.0, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
