"""Photographs drawn anew: an edge sketch, a poster, and the style of another photograph. Pure functions of their arguments.

In the spirit of ImageNet-Sketch (Wang et al. 2019) and Stylized-ImageNet (Geirhos et al. 2019), made from the photographs
themselves, since no drawings of the same classes could be had. Each takes RGB pictures and gives one of the same size.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter, ImageOps
from scipy import ndimage


def _to_picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def edge_sketch(image: Image.Image) -> Image.Image:
    """Dark lines on white where the smoothed brightness changes, the strongest twentieth of all pixels black."""
    grey = ndimage.gaussian_filter(np.asarray(image.convert("L"), float), 0.8)
    strength = np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1))
    lines = np.clip(strength / max(float(np.quantile(strength, 0.95)), 1e-6), 0, 1)
    return _to_picture(np.repeat(255 * (1 - lines)[..., None], 3, axis=2))


def posterised(image: Image.Image) -> Image.Image:
    """Flat patches of few colours: a median of 3 x 3 pixels, then four levels a channel with its contrast stretched."""
    flat = ImageOps.autocontrast(image.filter(ImageFilter.MedianFilter(3)))
    return _to_picture(np.rint(np.asarray(flat, float) / 85) * 85)


def styled(image: Image.Image, style: Image.Image, octaves: int = 3) -> Image.Image:
    """The content of one photograph with the statistics of another: mean and covariance of its colours, and in each of
    `octaves` bands of frequency its standard deviation (colour transfer of Reinhard et al. 2001, done in bands as texture
    statistics are since Heeger & Bergen 1995).

    Args:
        style: of any size; it is brought to the size of `image`.
    """
    content = np.asarray(image.convert("RGB"), float)
    model = np.asarray(style.convert("RGB").resize(image.size, Image.Resampling.BICUBIC), float)
    own, wanted = _bands(content, octaves), _bands(model, octaves)
    mixed = own[-1]
    for band, target in zip(own[:-1], wanted[:-1], strict=True):
        mixed = mixed + band * (target.std() / max(float(band.std()), 1e-6))
    flat, model_flat = mixed.reshape(-1, 3), model.reshape(-1, 3)
    white = (flat - flat.mean(0)) @ _power(np.cov(flat.T), -0.5)
    return _to_picture((white @ _power(np.cov(model_flat.T), 0.5) + model_flat.mean(0)).reshape(content.shape))


def _bands(pixels: np.ndarray, octaves: int) -> list[np.ndarray]:
    """Differences of Gaussians, finest first, and what is left; they add up to the pixels."""
    bands, left = [], pixels
    for octave in range(octaves):
        smooth = ndimage.gaussian_filter(left, (2.0**octave, 2.0**octave, 0))
        bands.append(left - smooth)
        left = smooth
    return [*bands, left]


def _power(covariance: np.ndarray, exponent: float) -> np.ndarray:
    """A power of a covariance of colours; no variance counts for less than 0.25, so that grey pictures work."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.maximum(values, 0.25) ** exponent) @ vectors.T
