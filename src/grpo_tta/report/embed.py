"""What a page holds in itself: images as `data:` addresses, and bars as widths in percent of their field."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from PIL import Image

MIDDLE = 50.0
EXACT = 128
"""Longer side in pixels up to which an image is kept as it is."""


def data_uri(kind: str, content: bytes) -> str:
    """A `data:` address; `kind` is a MIME type such as `image/svg+xml`."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def png_uri(image: Image.Image, longest: int | None = None) -> str:
    """An image as a `data:` address, as PNG so that small ones stay exact.

    Args:
        longest: of its sides in pixels; larger images are made smaller.
    """
    if longest is not None and max(image.size) > longest:
        image = image.copy()
        image.thumbnail((longest, longest))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return data_uri("image/png", buffer.getvalue())


def image_uri(image: Image.Image, longest: int) -> str:
    """An RGB image as a `data:` address, no larger than `longest`: small ones exact (PNG), photographs as JPEG."""
    if max(image.size) <= EXACT:
        return png_uri(image, longest)
    small = image.copy()
    small.thumbnail((longest, longest))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=80)
    return data_uri("image/jpeg", buffer.getvalue())


def bar_widths(values: Sequence[float]) -> list[tuple[float, float]]:
    """Bars to both sides of zero, which is in the middle of the field: (left, width) of each in percent.

    The largest value in size fills its half.
    """
    largest = max(map(abs, values), default=0.0) or 1.0
    widths = [MIDDLE * abs(value) / largest for value in values]
    return [(MIDDLE if value >= 0 else MIDDLE - width, width) for value, width in zip(values, widths, strict=True)]


def widths_from_lowest(values: Sequence[float], at_least: float = 4.0) -> list[float]:
    """Bars from the lowest value, which has `at_least` percent of the field, to the highest, which fills it."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    if high <= low:
        return [at_least] * len(values)
    return [at_least + (100 - at_least) * (value - low) / (high - low) for value in values]
