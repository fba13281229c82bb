"""Six corruptions of photographs of 32 pixels at severities 1 to 5, in the manner of CIFAR-10-C.

The severities of ImageNet-C are set for 224 pixels and are far too strong at 32. These are the strengths that CIFAR-10-C
(Hendrycks & Dietterich 2019, arXiv 1903.12261) was made with. Own and small, with a generator handed in.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from grpo_tta.errors import UserError

STRENGTHS: dict[str, tuple[float, ...]] = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),  # deviation, of a range of 1
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),  # share of samples
    "fog": (0.2, 0.5, 0.75, 1.0, 1.5),  # of a cloud that is added
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),  # factor about the mean
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),  # of the side
    "jpeg_compression": (80, 65, 58, 50, 40),  # quality
}
_WIBBLE_DECAY = (3.0, 3.0, 2.5, 2.0, 1.75)


def corrupt_small(image: Image.Image, name: str, severity: int, generator: np.random.Generator) -> Image.Image:
    """One corruption of a square RGB photograph whose side is a power of two, at the size it has.

    Raises:
        UserError: unknown name or severity.
    """
    if name not in STRENGTHS or not 1 <= severity <= 5:
        raise UserError(f"Unknown corruption {name}-{severity}; choose {', '.join(STRENGTHS)} and a severity from 1 to 5.")
    strength = STRENGTHS[name][severity - 1]
    if name == "pixelate":
        side = int(image.width * strength)
        return image.resize((side, side), Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)
    if name == "jpeg_compression":
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(strength))
        return Image.open(file).convert("RGB")
    x = np.asarray(image, dtype=float) / 255
    if name == "gaussian_noise":
        x = x + generator.normal(0.0, strength, x.shape)
    elif name == "impulse_noise":
        x = np.where(generator.random(x.shape) < strength, generator.random(x.shape) < 0.5, x)
    elif name == "fog":
        brightest = x.max()
        x = x + strength * clouds(image.width, _WIBBLE_DECAY[severity - 1], generator)[..., None]
        x = x * brightest / (brightest + strength)
    else:
        mean = x.mean((0, 1), keepdims=True)
        x = (x - mean) * strength + mean
    return Image.fromarray((np.clip(x, 0, 1) * 255).astype(np.uint8))


def clouds(side: int, decay: float, generator: np.random.Generator) -> np.ndarray:
    """A plasma fractal by the diamond-square algorithm, wrapped at its edges: `[side, side]` in 0..1.

    Args:
        side: a power of two.
        decay: by which the roughness falls from one scale to the next.
    """
    field, step, rough = np.zeros((side, side)), side, 100.0

    def perturbed(total: np.ndarray) -> np.ndarray:
        return total / 4 + rough * generator.uniform(-1, 1, total.shape)

    while step >= 2:
        half = step // 2
        corners = field[::step, ::step]
        rows = corners + np.roll(corners, -1, 0)
        field[half::step, half::step] = perturbed(rows + np.roll(rows, -1, 1))
        middles = field[half::step, half::step]
        above = middles + np.roll(middles, 1, 0)
        field[::step, half::step] = perturbed(above + corners + np.roll(corners, -1, 1))
        left = middles + np.roll(middles, 1, 1)
        field[half::step, ::step] = perturbed(left + corners + np.roll(corners, -1, 0))
        step, rough = half, rough / decay
    field -= field.min()
    return field / field.max()
