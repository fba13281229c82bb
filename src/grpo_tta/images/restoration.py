"""What a camera or the weather took from an image, measured in the image and given back before it is cropped.

Images are `[3, H, W]` in 0..1. An image that lacks nothing comes back as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_VEILED = 0.38
"""An image whose widest channel spans less of 0..1 lacks contrast; one that spans more shows its own colours."""


def restore_contrast(pixels: Tensor, tail: float = 0.01, max_gain: float = 8.0) -> Tensor:
    """The image with its contrast restored: what fog, glare and a dim sensor take away.

    All channels share one gain, so large that 95 % of the range is filled between the `tail` quantiles. An image that fills
    it already stays nearly as it is. There are two cases:

    - The widest channel spans 0.38 or more: what an image shows are its own colours. The three channels are stretched
      together, about one middle and between the least and the greatest of their quantiles. Every pixel keeps its hue, and
      grey stays grey.
    - It spans less: what all pixels have in common is taken for a veil or a cast. Each channel is stretched about its own
      middle, until the widest one fills the range. Differences within the image keep their proportions, and the middles come
      nearer to grey.

    In the spirit of AugMix's autocontrast (arXiv 1912.02781), which stretches every channel for itself and so loses colour.
    """
    return stretch(pixels, contrast_range(pixels, tail), max_gain)


def contrast_range(pixels: Tensor, tail: float = 0.01) -> Tensor:
    """The `tail` quantile of each channel, and the one as far from the top: `[3, H, W]` -> `[2, 3]`."""
    flat = pixels.flatten(1)
    last = flat.shape[1] - 1
    return torch.stack([flat.kthvalue(1 + round(share * last), dim=1).values for share in (tail, 1 - tail)])


def contrast_range_of(histogram: Sequence[int], tail: float = 0.01) -> Tensor:
    """The same numbers from the counts of the 256 values of each channel, in a small part of the time: `[2, 3]`.

    Args:
        histogram: 3 * 256 counts, channel by channel, as Pillow gives them.
    """
    counts = torch.tensor(histogram).unflatten(0, (3, 256))
    below = counts.cumsum(1)  # pixels up to each value
    last = int(below[0, -1]) - 1
    rank = torch.tensor([1 + round(share * last) for share in (tail, 1 - tail)])
    return (below[None] < rank[:, None, None]).sum(-1) / 255


def stretch(pixels: Tensor, of: Tensor, max_gain: float = 8.0) -> Tensor:
    """Stretches images between known quantiles, as `restore_contrast` does: `[..., 3, H, W]` and `[..., 2, 3]` -> the same."""
    low, high = of.unbind(-2)
    veiled = (high - low).amax(-1, keepdim=True) < _VEILED
    low = torch.where(veiled, low, low.amin(-1, keepdim=True))
    high = torch.where(veiled, high, high.amax(-1, keepdim=True))
    gain = (0.95 / (high - low).amax(-1).clamp_min(1e-6)).clamp(1.0, max_gain)[..., None, None, None]
    middle = ((low + high) / 2)[..., None, None]
    return ((pixels - middle) * gain + 0.5 + (middle - 0.5) / gain).clamp(0.0, 1.0)


def _differences(x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Differences of neighbours, and of pixels two apart, along rows and columns."""
    one = [x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]]
    two = [x[..., 2:] - x[..., :-2], x[..., 2:, :] - x[..., :-2, :]]
    return one, two


def _product(a: list[Tensor], b: list[Tensor]) -> float:
    return sum(float((x * y).mean()) for x, y in zip(a, b, strict=True))


def acutance(pixels: Tensor) -> float:
    """How abruptly an image changes: rms difference of neighbouring pixels over that of pixels two apart.

    About 0.5 where all is smooth, 1 for white noise, more for patterns of single pixels; the same at any contrast. 1 where the
    image is flat or has fewer than three rows or columns.
    """
    if min(pixels.shape[-2:]) < 3:
        return 1.0
    one, two = _differences(pixels)
    of_two = _product(two, two)
    return math.sqrt(_product(one, one) / of_two) if of_two > 1e-12 else 1.0


def blur(pixels: Tensor, sigma: float = 1.0) -> Tensor:
    """A Gaussian of `sigma` pixels, the image mirrored at its edges."""
    r = min(math.ceil(3 * sigma), *(n - 1 for n in pixels.shape[-2:]))
    kernel = torch.exp(-torch.arange(-r, r + 1, dtype=pixels.dtype, device=pixels.device).square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(pixels[:, None], (r, r, r, r), mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])[:, 0]


def restore_sharpness(pixels: Tensor, target: float, most: float = 4.0) -> Tensor:
    """Unsharp masking, p + a (p - blur(p)), with the least a that brings the acutance to `target`, and at the most `most`.

    A blurred image is worse than a sharp one for every crop that is taken from it. With acutance^2 a ratio of two quadratics
    in a, the amount is a root of a third.
    """
    if acutance(pixels) >= target:
        return pixels
    detail = pixels - blur(pixels)
    (one, two), (detail_one, detail_two) = _differences(pixels), _differences(detail)
    of_one = (_product(one, one), _product(one, detail_one), _product(detail_one, detail_one))
    of_two = (_product(two, two), _product(two, detail_two), _product(detail_two, detail_two))
    # c + 2 b a + s a^2 = 0, where c < 0: the image as it is falls short of the target
    c, b, s = (first - target**2 * second for first, second in zip(of_one, of_two, strict=True))
    amount = most
    if (root := b * b - s * c) >= 0 and (divisor := b + math.sqrt(root)) > 0:
        amount = min(most, -c / divisor)  # the least positive root
    return (pixels + amount * detail).clamp(0.0, 1.0)
