from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from torch.nn import functional as F

from grpo_tta.backbones.open_clip import OpenClipBackbone
from grpo_tta.errors import UserError
from grpo_tta.images.read import read_decoded
from grpo_tta.images.restoration import acutance
from grpo_tta.images.seeds import image_generator
from grpo_tta.images.views import (
    ImageViews,
    ViewSettings,
    crop_and_resize,
    draw_boxes,
    resampling_matrix,
    shuffle_patches,
    size_to_cut,
)

HALF = torch.full((3,), 0.5)


def make(image: Image.Image, backbone: OpenClipBackbone, *, name: str = "x", seed: int = 0, **settings: Any):
    first = backbone.preprocess(image)
    made = ImageViews(image, first, name, seed, ViewSettings(**settings), backbone.mean, backbone.std)
    return made.views(range(ViewSettings(**settings).views)), made.content_free()


def test_view_0_is_the_models_own_preprocessing(image: Image.Image, backbone: OpenClipBackbone) -> None:
    views, _ = make(image, backbone, views=5, content_free=2)
    assert torch.equal(views[0], backbone.preprocess(image))


def test_views_depend_on_the_image_and_the_seed_alone(image: Image.Image, backbone: OpenClipBackbone) -> None:
    torch.manual_seed(1)
    first, content_free = make(image, backbone, views=6, content_free=3)
    torch.manual_seed(2)
    again, content_free_again = make(image, backbone, views=6, content_free=3)
    assert torch.equal(first, again)
    assert torch.equal(content_free, content_free_again)
    assert not torch.equal(first[1:], make(image, backbone, name="y", views=6, content_free=3)[0][1:])
    assert not torch.equal(first[1:], make(image, backbone, seed=1, views=6, content_free=3)[0][1:])


def test_more_views_keep_the_first_ones(image: Image.Image, backbone: OpenClipBackbone) -> None:
    few, few_free = make(image, backbone, views=4, content_free=2)
    many, many_free = make(image, backbone, views=9, content_free=5)
    assert torch.equal(few, many[:4])
    assert torch.equal(few_free, many_free[:2])


def test_boxes_stay_inside_and_follow_the_settings() -> None:
    settings = ViewSettings(crop_scale=(0.3, 0.9), crop_ratio=(1.0, 1.0), flip=0.25)
    boxes, flips = draw_boxes(image_generator(0, "x", "crops"), 4000, 60, 60, settings)
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 60 + 1e-9).all()
    assert (left + width <= 60 + 1e-9).all()
    share = height * width / 3600
    assert 0.3 <= share.min() <= share.max() <= 0.9
    assert abs(flips.double().mean() - 0.25) < 0.03


def test_resampling_by_hand() -> None:
    # 4 pixels to 2 with a triangle of half-width 2 at centres 1 and 3: weights (1.5, 1.5, 0.5, 0) / 4 after edges fall off
    found = resampling_matrix(torch.tensor([0.0]), torch.tensor([4.0]), 4, 2)
    weights = torch.tensor([0.75, 0.75, 0.25, 0.0])
    torch.testing.assert_close(found[0, 0], weights / weights.sum())
    torch.testing.assert_close(found[0, 1], weights.flip(0) / weights.sum())


@pytest.mark.parametrize("size", [16, 33, 100])
def test_a_full_crop_equals_torchs_antialiased_resize(size: int) -> None:
    pixels = torch.rand(3, 50, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    boxes = torch.tensor([[0.0, 0.0, 50.0, 40.0]], dtype=torch.float64)
    found = crop_and_resize(pixels, boxes, torch.tensor([False]), size)
    expected = F.interpolate(pixels[None], (size, size), mode="bilinear", antialias=True, align_corners=False)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    flipped = crop_and_resize(pixels, boxes, torch.tensor([True]), size)
    torch.testing.assert_close(flipped, expected.flip(-1), atol=1e-6, rtol=0)


def test_an_integer_crop_equals_cropping_first() -> None:
    pixels = torch.rand(3, 30, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = crop_and_resize(pixels, torch.tensor([[4.0, 7.0, 20.0, 16.0]], dtype=torch.float64), torch.tensor([False]), 12)
    crop = pixels[None, :, 4:24, 7:23]
    expected = F.interpolate(crop, (12, 12), mode="bilinear", antialias=True, align_corners=False)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_content_free_views_hold_the_same_patches_in_another_order() -> None:
    view = torch.arange(3 * 7 * 7, dtype=torch.float32).reshape(3, 7, 7)
    order = torch.tensor([[3, 2, 1, 0], [0, 1, 2, 3]])
    content_free = shuffle_patches(view, order, 2)
    assert torch.equal(content_free[1], view)
    assert torch.equal(content_free[0, :, :3, :3], view[:, 3:6, 3:6])
    assert torch.equal(content_free[0, :, 6], view[:, 6])  # what the grid leaves over stays
    assert torch.equal(content_free[0].flatten().sort().values, view.flatten().sort().values)


def test_a_grey_image_of_one_pixel_still_makes_views(backbone: OpenClipBackbone) -> None:
    views, content_free = make(Image.fromarray(np.full((1, 1, 3), 9, np.uint8)), backbone, views=4, content_free=2)
    assert views.isfinite().all()
    assert content_free.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": 0}, "set views to at least 1"),
        ({"content_free": -1}, "set content_free to 0 or more"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale"),
        ({"crop_ratio": (2.0, 1.0)}, "crop_ratio"),
        ({"flip": 1.5}, "flip is a probability"),
        ({"patch_grid": 1}, "patch_grid must be at least 2"),
    ],
)
def test_bad_settings_name_the_remedy(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ViewSettings(**settings)


def test_the_share_of_restored_views_is_kept(image: Image.Image, backbone: OpenClipBackbone) -> None:
    dull = image.point(lambda value: 100 + value // 8)
    plain, _ = make(dull, backbone, views=9, content_free=0, restored=0.0)
    half, _ = make(dull, backbone, views=9, content_free=0, restored=0.5)
    changed = [not torch.equal(a, b) for a, b in zip(plain, half, strict=True)]
    assert changed == [False, False, True, False, True, False, True, False, True]
    assert half[2].std() > 3 * plain[2].std()


def test_crops_of_a_blurred_image_are_sharpened_and_view_0_is_not(image: Image.Image, backbone: OpenClipBackbone) -> None:
    dim = image.filter(ImageFilter.GaussianBlur(2))
    plain, _ = make(dim, backbone, views=5, content_free=0, acutance=0.0)
    sharp, _ = make(dim, backbone, views=5, content_free=0, acutance=0.6)
    assert torch.equal(plain[0], sharp[0])
    assert all(acutance(b) > acutance(a) for a, b in zip(plain[1:], sharp[1:], strict=True))


def test_a_image_that_is_sharp_enough_is_left_alone(image: Image.Image, backbone: OpenClipBackbone) -> None:
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8))
    plain, _ = make(noisy, backbone, views=5, content_free=0, acutance=0.0)
    assert torch.equal(make(noisy, backbone, views=5, content_free=0, acutance=0.6)[0], plain)


def test_a_large_image_is_sharpened_at_the_scale_of_the_model(backbone: OpenClipBackbone) -> None:
    """The same blurred scene at 40 and at 400 pixels gives nearly the same views."""
    rng = np.random.default_rng(1)
    small = Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).filter(ImageFilter.GaussianBlur(2))
    large = small.resize((400, 400), Image.Resampling.BICUBIC)
    one, other = (make(p, backbone, views=6, content_free=0, acutance=0.6)[0][1:] for p in (small, large))
    plain = make(small, backbone, views=6, content_free=0, acutance=0.0)[0][1:]
    assert (one - other).abs().mean() < 0.35 * (one - plain).abs().mean()


def smallest_side(height: int, width: int, settings: ViewSettings) -> float:
    """Of any crop that may be drawn."""
    area = settings.crop_scale[0] * height * width
    low, high = settings.crop_ratio
    return min(width, height, (area * low) ** 0.5, (area / high) ** 0.5)


@given(
    st.integers(8, 6000),
    st.integers(8, 6000),
    st.integers(16, 400),
    st.floats(0.05, 1.0),
    st.floats(0.3, 1.0),
    st.floats(1.0, 3.0),
)
def test_the_smallest_crop_keeps_as_many_pixels_as_the_model_reads(
    height: int, width: int, size: int, low: float, narrow: float, wide: float
) -> None:
    settings = ViewSettings(crop_scale=(low, 1.0), crop_ratio=(narrow, wide))
    found = size_to_cut(height, width, size, settings)
    least = settings.least_side(size)
    assert least is not None
    if min(height, width) >= least:  # what may be reduced while it is decoded is always reduced further
        assert found is not None
    if found is not None:
        assert max(found[0] / height, found[1] / width) <= 0.5 + 1 / min(height, width)
        assert smallest_side(*found, settings) >= size - 1e-6
        assert found[0] / found[1] == pytest.approx(height / width, rel=2 / min(found))


def test_the_size_to_cut_by_hand() -> None:
    # 12 megapixels for 224: the shorter side of 3,000 to 224 / sqrt(0.5 * 3/4) / sqrt(4/3) = 316.8, or 224 / sqrt(0.5) = 316.8
    assert size_to_cut(3000, 4000, 224, ViewSettings()) == (317, 423)
    assert size_to_cut(3000, 3000, 224, ViewSettings()) == (366, 366)  # 224 / sqrt(0.375): a crop of 3:4 is narrower
    assert size_to_cut(633, 844, 224, ViewSettings()) is None  # by less than a half
    assert size_to_cut(3000, 4000, 224, ViewSettings(full_resolution=True)) is None
    assert ViewSettings().least_side(224) == 732
    assert ViewSettings(full_resolution=True).least_side(224) is None


def photograph(height: int, width: int) -> Image.Image:
    """Structure at many scales, as in photographs."""
    rng = np.random.default_rng(5)
    made = np.zeros((height, width, 3))
    for side in (4, 16, 64, 256):
        coarse = Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))
        made += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), float) / side**0.5
    return Image.fromarray((made / made.max() * 255).astype(np.uint8))


def test_a_small_image_is_cut_as_before(backbone: OpenClipBackbone) -> None:
    image = photograph(100, 90)
    plain, _ = make(image, backbone, views=9, content_free=0, full_resolution=True)
    assert torch.equal(make(image, backbone, views=9, content_free=0)[0], plain)


@pytest.mark.parametrize("acutance_target", [0.0, 0.6])
def test_the_same_crops_are_taken_from_a_reduced_image(backbone: OpenClipBackbone, acutance_target: float) -> None:
    image = photograph(600, 900)
    assert size_to_cut(600, 900, 32, ViewSettings()) is not None
    plain, _ = make(image, backbone, views=9, content_free=0, acutance=acutance_target, full_resolution=True)
    found, _ = make(image, backbone, views=9, content_free=0, acutance=acutance_target)
    assert torch.equal(found[0], plain[0])  # the model's own preprocessing of the whole image
    assert not torch.equal(found[1:], plain[1:])
    other, _ = make(image, backbone, name="y", views=9, content_free=0, acutance=acutance_target)
    assert (found - plain)[1:].abs().mean() < 0.1 * (other - plain)[1:].abs().mean()


def test_view_0_of_an_image_reduced_while_it_is_decoded_is_nearly_the_same(backbone: OpenClipBackbone) -> None:
    image = photograph(1200, 1800)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    whole, part = (
        backbone.preprocess(read_decoded(buffer, "x", least).image) for least in (None, ViewSettings().least_side(32))
    )
    assert (whole - part).abs().mean() * 127.5 < 1  # less than a step of 8 bits; the tiny model's deviation is 0.5
