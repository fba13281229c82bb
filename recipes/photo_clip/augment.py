"""The field's augmentations on whole batches: random resized crops with flips, colour jitter, CutMix.

No noise, blur, weather or compression: those are the shifts that the model is later measured under (the rule of
Hendrycks & Dietterich 2019).
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def crops(pictures: torch.Tensor, side: int, smallest: float, generator: torch.Generator) -> torch.Tensor:
    """Random resized crops, mirrored half of the time: uint8 `[B, 3, s, s]` -> float `[B, 3, side, side]` in -1 to 1.

    Args:
        smallest: least share of the area that a crop keeps.
    """
    B = len(pictures)
    area = torch.empty(B).uniform_(smallest, 1.0, generator=generator)
    ratio = torch.empty(B).uniform_(-0.28, 0.28, generator=generator).exp().sqrt()
    w, h = (area.sqrt() * ratio).clamp(max=1.0), (area.sqrt() / ratio).clamp(max=1.0)
    cx = (torch.rand(B, generator=generator) * 2 - 1) * (1 - w)
    cy = (torch.rand(B, generator=generator) * 2 - 1) * (1 - h)
    mirror = torch.where(torch.rand(B, generator=generator) < 0.5, -1.0, 1.0)
    zero = torch.zeros(B)
    theta = torch.stack([torch.stack([w * mirror, zero, cx], 1), torch.stack([zero, h, cy], 1)], 1)
    grid = F.affine_grid(theta, [B, 3, side, side], align_corners=False)
    return F.grid_sample(pictures.float() / 127.5 - 1.0, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def jitter(pixels: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Brightness, contrast and saturation each drawn from 1 - strength to 1 + strength; one picture in ten grey."""

    def factor() -> torch.Tensor:
        return torch.empty(len(pixels), 1, 1, 1).uniform_(1 - strength, 1 + strength, generator=generator)

    pixels = (pixels + 1) * factor() - 1
    middle = pixels.mean((1, 2, 3), keepdim=True)
    pixels = middle + (pixels - middle) * factor()
    grey = pixels.mean(1, keepdim=True)
    saturation = torch.where(torch.rand(len(pixels), 1, 1, 1, generator=generator) < 0.1, 0.0, factor())
    return (grey + (pixels - grey) * saturation).clamp(-1, 1)


def cutmix(pixels: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Pastes one rectangle of a shuffled batch over the batch (Yun et al. 2019).

    Returns:
        the pixels, which picture the rectangle came from (int64 `[B]`), and the share of the area that is a picture's own.
    """
    side = pixels.shape[-1]
    other = torch.randperm(len(pixels), generator=generator)
    edge = (1 - torch.rand(1, generator=generator)).sqrt().item()  # Beta(1, 1)
    cy, cx = (torch.rand(2, generator=generator) * side).tolist()
    top, bottom = max(0, round(cy - edge * side / 2)), min(side, round(cy + edge * side / 2))
    left, right = max(0, round(cx - edge * side / 2)), min(side, round(cx + edge * side / 2))
    mixed = pixels.clone()
    mixed[:, :, top:bottom, left:right] = pixels[other, :, top:bottom, left:right]
    return mixed, other, 1 - (bottom - top) * (right - left) / side**2
