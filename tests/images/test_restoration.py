"""What was taken from an image is measured and given back; what lacks nothing stays."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_tta.images.restoration import acutance, blur, restore_contrast, restore_sharpness, stretch


def noise(seed: int = 0, side: int = 40) -> torch.Tensor:
    return torch.rand(3, side, side, generator=torch.Generator().manual_seed(seed))


def test_a_veiled_image_is_stretched_about_each_channels_middle() -> None:
    ramp = torch.linspace(0, 1, 101).expand(3, 1, 101)
    dull = ramp * 0.19 + torch.tensor([0.2, 0.4, 0.6])[:, None, None]
    found = restore_contrast(dull, tail=0.0)
    # gain 0.95 / 0.19 = 5; the middle 0.295 of the first channel comes to lie at 0.5 + (0.295 - 0.5) / 5 = 0.459
    torch.testing.assert_close(found[0, 0, 50], torch.tensor(0.459))
    torch.testing.assert_close(found[1], ((dull[1] - 0.495) * 5 + 0.499).clamp(0, 1))
    torch.testing.assert_close(restore_contrast(ramp), ramp)
    assert torch.equal(restore_contrast(torch.full((3, 4, 4), 0.25)), torch.full((3, 4, 4), 0.5 - 0.25 / 8))


def test_an_image_that_shows_its_own_colours_is_stretched_as_a_whole() -> None:
    """Red ground from dark to light with a grey spot: from 0.1 to 0.6 in all, so a gain of 0.95 / 0.5 = 1.9 about 0.35."""
    ramp = torch.linspace(0, 1, 101)[None]
    image = torch.stack([0.2 + 0.4 * ramp, 0.1 + 0.2 * ramp, 0.1 + 0.2 * ramp])
    image[:, 0, 40] = 0.3
    found = restore_contrast(image, tail=0.0)
    centre = 0.5 + (0.35 - 0.5) / 1.9
    torch.testing.assert_close(found, ((image - 0.35) * 1.9 + centre).clamp(0, 1))
    torch.testing.assert_close(found[:, 0, 40], torch.full((3,), -0.05 * 1.9 + centre))  # grey, not cyan


@given(st.integers(0, 1000), st.floats(0.4, 0.9), st.floats(0.0, 1.0))
@settings(max_examples=25, deadline=None)
def test_hues_are_kept_where_nothing_is_cut_off(seed: int, span: float, at: float) -> None:
    """Hue is the ratio of the differences between channels; one gain and one middle for all keep it."""
    image = (1 - span) * at + span * noise(seed, side=8)
    found = restore_contrast(image, tail=0.0)
    inside = ((found > 0) & (found < 1)).all(0)
    before, after = image[:, inside].diff(dim=0), found[:, inside].diff(dim=0)
    torch.testing.assert_close(before[0] * after[1], before[1] * after[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("spans", "alike"), [((0.37, 0.3, 0.2), False), ((0.39, 0.3, 0.2), True)])
def test_both_kinds_may_lie_in_one_batch(spans: tuple[float, float, float], alike: bool) -> None:
    """The middles of a veiled image are moved on their own; those of another together."""
    low = torch.tensor([0.1, 0.3, 0.5])
    of = torch.stack([low, low + torch.tensor(spans)])
    middle = of.mean(0)[:, None, None].expand(3, 2, 2)
    other = torch.tensor([[0.0] * 3, [1.0] * 3])
    found = stretch(torch.stack([middle, middle]), torch.stack([of, other]))
    torch.testing.assert_close(found[1], middle)
    gain = 0.95 / (0.7 - 0.1) if alike else 0.95 / 0.37
    expected = (middle - 0.4) * gain + 0.5 + (0.4 - 0.5) / gain if alike else 0.5 + (middle - 0.5) / gain
    torch.testing.assert_close(found[0], expected)


def test_acutance_by_hand() -> None:
    """A wave of period n changes by 2 sin(pi / n) between neighbours and by 2 sin(2 pi / n) over two pixels."""
    for period in (8, 16):
        wave = torch.sin(2 * math.pi * torch.arange(4 * period) / period)
        plane = 0.5 + 0.3 * wave[None, None] * torch.ones(3, 4 * period, 1)
        expected = math.sin(math.pi / period) / math.sin(2 * math.pi / period)
        assert acutance(plane) == pytest.approx(expected, rel=0.02)
    assert acutance(noise(side=400)) == pytest.approx(1.0, rel=0.02)
    assert acutance(torch.full((3, 8, 8), 0.3)) == 1.0
    assert acutance(noise()[:, :2]) == 1.0


def test_blur_keeps_the_mean_and_a_flat_image() -> None:
    assert torch.allclose(blur(torch.full((3, 9, 9), 0.3)), torch.full((3, 9, 9), 0.3))
    assert blur(noise()).std() < 0.5 * noise().std()
    assert blur(noise(side=2)).shape == (3, 2, 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.8, 3.0), st.floats(0.52, 0.7), st.floats(1e-3, 1e-2))
def test_the_least_amount_that_reaches_the_target(seed: int, sigma: float, target: float, contrast: float) -> None:
    soft = 0.5 + contrast * (blur(noise(seed), sigma) - 0.5)  # so low that nothing is cut off at 0 or 1
    sharp = restore_sharpness(soft, target, most=1e3)
    detail = soft - blur(soft)
    if acutance(soft) >= target:
        assert sharp is soft
    elif acutance(detail) > target:
        assert acutance(sharp) == pytest.approx(target, abs=5e-3)
    else:  # no amount of this detail brings it to the target, so the most is taken, which cuts off at 0 and 1
        assert torch.equal(sharp, (soft + 1e3 * detail).clamp(0.0, 1.0))


def test_no_more_than_the_most() -> None:
    soft = 0.5 + 0.1 * (blur(noise(), 4.0) - 0.5)
    detail = soft - blur(soft)
    assert torch.allclose(restore_sharpness(soft, 0.9, most=0.5), soft + 0.5 * detail)
