"""2,000 damaged images, read as `predict` and as the service read them: an image or a refusal, and the same in both."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from grpo_tta.errors import UserError
from grpo_tta.images.read import read_image
from grpo_tta.service.images import Opened
from grpo_tta.service.limits import STATUS, Limits, RefusedError
from tests.service.conftest import drawing, encoded
from tests.service.test_hostile import mutated, never_good, seeds

COUNT = 2000
LIMITS = replace(Limits(), pixels=2**22, aspect=100)


def more() -> list[bytes]:
    """Of the formats that are read since the service and `predict` read the same."""
    image = drawing(0)
    grey = Image.fromarray(np.arange(2500, dtype=np.uint16).reshape(50, 50) * 26)
    found = [encoded(image, kind) for kind in ("AVIF", "JPEG2000", "ICO", "TGA", "PCX", "SGI", "DDS", "ICNS")]
    return [*found, encoded(grey, "PNG"), encoded(grey, "JPEG2000"), encoded(image.convert("1"), "XBM")]


def by_predict(content: bytes) -> Image.Image | str:
    try:
        return read_image(io.BytesIO(content), "x")
    except UserError as error:
        return str(error)


def by_service(content: bytes) -> Image.Image | RefusedError:
    try:
        return Opened(content, 0, LIMITS).decode(None).image
    except RefusedError as error:
        return error


def is_reproducible(content: bytes, read: Image.Image) -> bool:
    """Whether a decoder gives the same pixels again: some leave what a damaged file lacks as the memory was."""
    again = [by_predict(content) for _ in range(3)]
    return all(isinstance(image, Image.Image) and image.tobytes() == read.tobytes() for image in again)


@pytest.mark.filterwarnings("ignore")
def test_two_thousand_damaged_images() -> None:
    good = seeds() + more()
    outcomes: Counter[str] = Counter()
    for content in [*good, *never_good(), *(mutated(good, number) for number in range(COUNT))]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            here, there = by_predict(content), by_service(content)
        if isinstance(there, RefusedError):
            assert STATUS[there.code] == 422
            outcomes[there.code] += 1
            assert isinstance(here, str) or there.code == "too_many_pixels"
        else:
            assert isinstance(here, Image.Image), here
            assert here.mode == "RGB"
            assert here.tobytes() == there.tobytes() or not is_reproducible(content, here)
            outcomes["read"] += 1
        assert not isinstance(here, str) or "\n" not in here
    assert outcomes["read"] > 300
    assert outcomes["damaged_image"] > 300
    assert outcomes["not_an_image"] > 20
