"""Shifts of a user's own image, of any size and shape, so that one can watch adaptation work.

In the spirit of the suite's corruptions (`data.corruptions`), which are frozen and for square 64-pixel drawings alone.
Strengths are in shares of the shorter side, after the image was brought down to about the size of the model's
input. Noise on the pixels of a large photo would average out before the model met it.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from PIL import Image
from scipy import ndimage

from grpo_tta.errors import UserError

Shift = Literal["none", "noise", "blur", "fog", "sketch"]
SHIFTS: tuple[Shift, ...] = get_args(Shift)
SEVERITIES = (1, 2, 3, 4, 5)


def shift(image: Image.Image, kind: Shift, severity: int, size: int, seed: int = 0) -> Image.Image:
    """The image as a worse camera, the weather or a pen would have it; `none` gives it back untouched.

    Args:
        image: RGB.
        kind: of shift.
        severity: 1 to 5.
        size: side of the model's input in pixels; a larger image is first brought down to 4/3 of it.
        seed: of noise and clouds.

    Raises:
        UserError: unknown kind, or a severity that does not exist.
    """
    if kind not in SHIFTS:
        raise UserError(f"Unknown shift {kind!r}; choose {', '.join(SHIFTS)}.")
    if severity not in SEVERITIES:
        raise UserError(f"Severity {severity} does not exist; use 1, 2, 3, 4 or 5.")
    if kind == "none":
        return image
    pixels = np.asarray(_bring_down(image, 4 * size // 3), dtype=np.float64)
    rng = np.random.default_rng(seed)
    level = severity - 1
    if kind == "noise":
        moved = pixels + rng.normal(0.0, (12, 20, 30, 44, 62)[level], pixels.shape)
    elif kind == "blur":
        sigma = (0.016, 0.025, 0.036, 0.048, 0.062)[level] * min(pixels.shape[:2])
        moved = ndimage.gaussian_filter(pixels, (sigma, sigma, 0), mode="nearest")
    elif kind == "fog":
        moved = _fog(pixels, (0.35, 0.5, 0.62, 0.72, 0.8)[level], rng)
    else:
        moved = _sketch(pixels, (4.0, 5.0, 6.5, 8.5, 11.0)[level])
    return Image.fromarray(np.clip(np.rint(moved), 0, 255).astype(np.uint8))


def _bring_down(image: Image.Image, short: int) -> Image.Image:
    scale = short / min(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _fog(pixels: np.ndarray, density: float, rng: np.random.Generator) -> np.ndarray:
    """Clouds of three sizes between the image `[H, W, 3]` and the camera."""
    height, width = pixels.shape[:2]
    clouds = np.zeros((height, width))
    for octave, cells in enumerate((3, 6, 12)):
        small = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
        clouds += np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), float) / 255 / 2**octave
    clouds = clouds[..., None] / 1.75
    alpha = np.clip(density * (0.75 + 0.5 * clouds), 0, 0.93)
    return pixels * (1 - alpha) + (205 + 30 * clouds) * alpha


def _sketch(pixels: np.ndarray, strength: float) -> np.ndarray:
    """Dark lines on white where the brightness changes: `[H, W, 3]` -> `[H, W, 3]`."""
    grey = ndimage.gaussian_filter(pixels.mean(-1), 0.7)
    edges = np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1)) / 8
    return np.repeat((255 - strength * edges)[..., None], 3, axis=-1)
