"""Eight corruptions of small pictures at severities 1 to 5, in the spirit of ImageNet-C (Hendrycks & Dietterich 2019).

Own and small, because the nano suite must never change with a library's version. Severities are set for 64-pixel
drawings. Each takes uint8 `[H, W, 3]` and gives the same; the randomness comes from the generator handed in.
Frozen together with the nano suite.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


def _to_uint8(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def gaussian_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    return _to_uint8(image + rng.normal(0.0, (12, 20, 30, 44, 62)[severity - 1], image.shape))


def impulse_noise(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    share = (0.01, 0.03, 0.06, 0.1, 0.17)[severity - 1]
    hit = rng.random(image.shape[:2]) < share
    salt = rng.random(image.shape[:2]) < 0.5
    return np.where(hit[..., None], np.where(salt, 255, 0)[..., None], image).astype(np.uint8)


def defocus_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    sigma = (1.0, 1.6, 2.3, 3.1, 4.0)[severity - 1]
    return _to_uint8(ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0), mode="nearest"))


def motion_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    length = (5, 8, 11, 15, 19)[severity - 1]
    angle = rng.uniform(0, np.pi)
    steps = np.linspace(-length / 2, length / 2, 2 * length + 1)
    frames = [
        ndimage.shift(image.astype(float), (s * np.sin(angle), s * np.cos(angle), 0), order=1, mode="nearest") for s in steps
    ]
    return _to_uint8(np.mean(frames, axis=0))


def fog(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    density = (0.35, 0.5, 0.62, 0.72, 0.8)[severity - 1]
    side = image.shape[0]
    layers = np.zeros((side, side))
    for octave, cells in enumerate((3, 6, 12)):
        small = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
        layers += np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), float) / 255.0 / 2**octave
    layers = layers / 1.75
    alpha = np.clip(density * (0.75 + 0.5 * layers), 0, 0.93)[..., None]
    return _to_uint8(image * (1 - alpha) + (205 + 30 * layers[..., None]) * alpha)


def contrast(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    factor = (0.45, 0.3, 0.2, 0.13, 0.08)[severity - 1]
    middle = image.mean(axis=(0, 1), keepdims=True)
    return _to_uint8((image - middle) * factor + middle)


def pixelate(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    side = (32, 24, 18, 14, 11)[severity - 1]
    small = Image.fromarray(image).resize((side, side), Image.Resampling.BOX)
    return np.asarray(small.resize(image.shape[1::-1], Image.Resampling.NEAREST))


def jpeg(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=(25, 15, 9, 6, 3)[severity - 1])
    return np.asarray(Image.open(buffer))


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian-noise": gaussian_noise,
    "impulse-noise": impulse_noise,
    "defocus-blur": defocus_blur,
    "motion-blur": motion_blur,
    "fog": fog,
    "contrast": contrast,
    "pixelate": pixelate,
    "jpeg": jpeg,
}


def corrupt(image: np.ndarray, name: str, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Applies one corruption.

    Raises:
        ValueError: unknown name, or a severity outside 1 to 5.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"Unknown corruption {name!r}; choose one of {', '.join(CORRUPTIONS)}.")
    if severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"Severity {severity} does not exist; use 1, 2, 3, 4 or 5.")
    return CORRUPTIONS[name](image, severity, rng)
