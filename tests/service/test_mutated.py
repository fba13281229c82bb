"""2,000 damaged images, as `predict` reads them and sent to the service: an image or a refusal, and the same in both."""

from __future__ import annotations

import asyncio
import io
import warnings
from collections import Counter
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from grpo_tta import GRPOTTA
from grpo_tta.backbones.base import Backbone
from grpo_tta.errors import UserError
from grpo_tta.images.read import read_image
from grpo_tta.service.http import create_service
from tests.service.conftest import CLASSIFY, FEW, LABELS, PATIENT, drawing, encoded, serving
from tests.service.test_classify import same
from tests.service.test_hostile import mutated, never_good, seeds

COUNT = 2000
COMPARED = 3
"""Of the readable ones each third is also answered here; the model's passes are most of the test's time."""
LIMITS = replace(PATIENT, pixels=2**18, aspect=100)


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


def sent(address: str, files: list[bytes]) -> list[httpx.Response]:
    """What the service answers to each, sixteen at a time over a socket."""

    async def main() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=address, timeout=600) as client:
            places = asyncio.Semaphore(16)

            async def send(content: bytes) -> httpx.Response:
                async with places:
                    return await client.post(CLASSIFY, files={"images": content})

            return await asyncio.gather(*map(send, files))

    return asyncio.run(main())


def is_reproducible(content: bytes, read: Image.Image) -> bool:
    """Whether a decoder gives the same pixels again: some leave what a damaged file lacks as the memory was."""
    again = [by_predict(content) for _ in range(3)]
    return all(isinstance(image, Image.Image) and image.tobytes() == read.tobytes() for image in again)


@pytest.mark.filterwarnings("ignore")
def test_two_thousand_damaged_images(nano_backbone: Backbone) -> None:
    # without a policy step, which would be half of the time
    quick = GRPOTTA(nano_backbone, LABELS, settings=replace(FEW, steps=replace(FEW.steps, count=0)))
    good = seeds() + more()
    files = [*good, *never_good(), *(mutated(good, number) for number in range(COUNT))]
    with serving(create_service(quick, LIMITS)) as address:
        responses = sent(address, files)
        assert httpx.get(f"{address}/healthz").status_code == 200
    outcomes: Counter[str] = Counter()
    readable: list[tuple[bytes, Image.Image, dict[str, Any]]] = []
    for content, there in zip(files, responses, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            here = by_predict(content)
        assert there.status_code in (200, 422), there.text
        assert "Traceback" not in there.text
        if there.status_code == 200:
            assert isinstance(here, Image.Image), here
            assert here.mode == "RGB"
            readable.append((content, here, there.json()["results"][0]))
            outcomes["read"] += 1
        else:
            code = there.json()["error"]["code"]
            assert isinstance(here, str) or code == "too_many_pixels"
            outcomes[code] += 1
        assert not isinstance(here, str) or "\n" not in here
    compared = readable[::COMPARED]
    for (content, here, answer), expected in zip(compared, quick.predict([here for _, here, _ in compared]), strict=True):
        assert same(answer, expected) or not is_reproducible(content, here)
    assert outcomes["read"] > 300
    assert outcomes["damaged_image"] > 300
    assert outcomes["not_an_image"] > 20
