"""Random streams: published results depend on these very numbers."""

from __future__ import annotations

import pytest
import torch

from grpo_tta.images.seeds import ImageNoise, image_generator


@pytest.mark.parametrize(
    ("purpose", "expected"),
    [("crops", (0.8101398, 0.8681520)), ("copies", (0.0536070, 0.0281701)), ("gumbel", (0.8281704, 0.9734844))],
)
def test_the_streams_of_an_image(purpose: str, expected: tuple[float, float]) -> None:
    torch.testing.assert_close(torch.rand(2, generator=image_generator(7, "a", purpose)), torch.tensor(expected))


def test_gumbel_noise() -> None:
    expected = torch.tensor([[[1.6685, 3.6166, -0.2272]], [[0.3151, -0.8899, -0.9125]]])
    torch.testing.assert_close(ImageNoise(7, ("a", "b")).gumbel(1, 3), expected, atol=1e-4, rtol=0)
