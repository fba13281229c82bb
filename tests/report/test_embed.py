"""Bars and data addresses."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from grpo_tta.report.embed import bar_widths, data_uri, png_uri, widths_from_lowest


def opened(uri: str) -> Image.Image:
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_images_stay_exact_unless_they_are_too_long() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 20, 3), dtype=np.uint8))
    assert np.array_equal(opened(png_uri(image)), image)
    assert np.array_equal(opened(png_uri(image, 20)), image)
    assert opened(png_uri(image, 8)).size == (8, 4)
    assert image.size == (20, 10)  # the caller's is left alone


def test_data_uri_by_hand() -> None:
    assert data_uri("text/plain", b"hi") == "data:text/plain;base64,aGk="


def test_bars_to_both_sides_of_zero_by_hand() -> None:
    assert bar_widths([2.0, -1.0, 0.0]) == [(50, 50), (25, 25), (50, 0)]
    assert bar_widths([0.0, 0.0]) == [(50, 0), (50, 0)]
    assert bar_widths([]) == []


def test_bars_from_the_lowest_by_hand() -> None:
    assert widths_from_lowest([-3.0, -1.0, -2.0]) == pytest.approx([4, 100, 52])
    assert widths_from_lowest([1.0, 1.0]) == [4, 4]
    assert widths_from_lowest([]) == []
