"""Augmented views and content-free views of one image, drawn from numbers that belong to that image alone.

View 0 is the model's own preprocessing. The others are random resized crops with flips, the standard recipe of the
field (TPT, arXiv 2209.07511). A crop is resampled by two small matrices per view (one for rows, one for columns) that
hold an antialiased triangle filter, so that all views of an image are one batched product on any device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from grpo_tta.errors import UserError
from grpo_tta.images.restoration import contrast_range, contrast_range_of, restore_sharpness, stretch
from grpo_tta.images.seeds import image_generator

_REDUCING = Image.Resampling.LANCZOS
"""Of the filters tried the one that changes the fewest answers: a crop is filtered once more."""


@final
@dataclass(frozen=True)
class ViewSettings:
    """How many views, and what they are made of.

    Attributes:
        views: V, view 0 included.
        content_free: P, content-free views: view 0 with its patches in another order. They keep the image's low-level
            statistics and destroy the object.
        crop_scale: smallest and largest share of the image's area in a crop.
        crop_ratio: narrowest and widest aspect ratio of a crop.
        flip: probability of a left-right flip.
        restored: share of the crops taken from the image with its contrast restored (see `restore_contrast`).
        acutance: least abruptness of the image that crops are taken from; a blurred one is sharpened up to it (see
            `restore_sharpness`). 0 leaves every image as it is.
        patch_grid: for a content-free view, view 0 is divided into patch_grid x patch_grid patches.
        full_resolution: whether crops are cut from a large image as it is, rather than reduced (see `size_to_cut`).
    """

    views: int = 24
    content_free: int = 4
    crop_scale: tuple[float, float] = (0.5, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    restored: float = 0.5
    acutance: float = 0.6
    patch_grid: int = 12
    full_resolution: bool = False

    def __post_init__(self) -> None:
        if self.views < 1:
            raise UserError(f"{self.views} views cannot be adapted on; set views to at least 1.")
        if self.content_free < 0:
            raise UserError(f"{self.content_free} content-free views cannot be made; set content_free to 0 or more.")
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise UserError(f"crop_scale must be two shares with 0 < low <= high <= 1, not {self.crop_scale}.")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise UserError(f"crop_ratio must be two positive numbers, low first, not {self.crop_ratio}.")
        if not 0 <= self.restored <= 1:
            raise UserError(f"restored is a share between 0 and 1, not {self.restored}.")
        if not 0 <= self.acutance < 1:
            raise UserError(f"acutance is a ratio from 0 (leave every image as it is) to below 1, not {self.acutance}.")
        if not 0 <= self.flip <= 1:
            raise UserError(f"flip is a probability between 0 and 1, not {self.flip}.")
        if self.patch_grid < 2:
            raise UserError(f"patch_grid must be at least 2 to shuffle anything, not {self.patch_grid}.")

    def least_side(self, size: int) -> int | None:
        """Shorter side in pixels to which an image may be reduced while it is decoded; None where none may be.

        Twice what `size_to_cut` leaves, so that the model's own preprocessing hardly sees that it was reduced.

        Args:
            size: S of the model.
        """
        return None if self.full_resolution else 2 * math.ceil(_square_side(size, self))


def _square_side(size: int, settings: ViewSettings) -> float:
    """Side of a square image whose smallest crop is `size` pixels wide and high."""
    low, high = settings.crop_ratio
    return size / math.sqrt(settings.crop_scale[0] * min(low, 1 / high))


def _short_side(size: int, settings: ViewSettings) -> int:
    """Shorter side of an image whose smallest crop holds size * size pixels."""
    return math.ceil(size / math.sqrt(settings.crop_scale[0]))


def size_to_cut(height: int, width: int, size: int, settings: ViewSettings) -> tuple[int, int] | None:
    """Height and width to which a large image is reduced before crops are cut from it; None where it stays as it is.

    The smallest crop then still has as many pixels as the model reads, `size`, along both its sides. An image that would be
    reduced by less than a half stays as it is.
    """
    if settings.full_resolution:
        return None
    share = max(_short_side(size, settings) / min(height, width), _square_side(size, settings) / math.sqrt(height * width))
    return (math.ceil(height * share), math.ceil(width * share)) if share <= 1 / 2 else None


def draw_boxes(generator: torch.Generator, n: int, height: int, width: int, settings: ViewSettings) -> tuple[Tensor, Tensor]:
    """n crops: boxes `[n, 4]` (top, left, height, width in pixels) and flips `[n]` bool.

    The first crops are the same whatever n is, so that methods with fewer views see a part of the same views.
    """
    u = torch.rand((n, 5), generator=generator, dtype=torch.float64).T
    low, high = settings.crop_scale
    area = (low + (high - low) * u[0]) * height * width
    log_low, log_high = np.log(settings.crop_ratio[0]), np.log(settings.crop_ratio[1])
    ratio = torch.exp(log_low + (log_high - log_low) * u[1])
    w = (area * ratio).sqrt().clamp(max=width)
    h = (area / ratio).sqrt().clamp(max=height)
    boxes = torch.stack([(height - h) * u[2], (width - w) * u[3], h, w], dim=1)
    return boxes, u[4] < settings.flip


def resampling_matrix(start: Tensor, length: Tensor, size_in: int, size_out: int) -> Tensor:
    """Rows that resample [start, start + length) of a line of pixels to size_out pixels: `[n, size_out, size_in]`.

    An antialiased triangle filter, as in torchvision's and Pillow's bilinear resize: half-width max(1, scale), every
    row sums to one, and no pixel outside the crop is read.
    """
    scale = (length / size_out)[:, None, None]
    support = scale.clamp(min=1.0)
    centre = start[:, None, None] + (torch.arange(size_out, dtype=start.dtype, device=start.device)[:, None] + 0.5) * scale
    pixel = torch.arange(size_in, dtype=start.dtype, device=start.device) + 0.5
    weight = (1 - (pixel - centre).abs() / support).clamp(min=0)
    inside = (pixel > start[:, None, None] - 0.5) & (pixel < (start + length)[:, None, None] + 0.5)
    weight = weight * inside
    return weight / weight.sum(-1, keepdim=True)


def crop_and_resize(pixels: Tensor, boxes: Tensor, flips: Tensor, size: int) -> Tensor:
    """All crops of one image in two batched products: `[3, H, W]`, `[n, 4]`, `[n]` -> `[n, 3, size, size]`."""
    rows, columns = crop_matrices(pixels, boxes.to(pixels.device), flips.to(pixels.device), size)
    return torch.einsum("nhi,cij,nwj->nchw", rows, pixels, columns)


def crop_matrices(pixels: Tensor, boxes: Tensor, flips: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """What resamples rows and columns of pixels `[..., H, W]`: `[n, 4]`, `[n]` -> `[n, size, H]`, `[n, size, W]`."""
    H, W = pixels.shape[-2:]
    rows = resampling_matrix(boxes[:, 0], boxes[:, 2], H, size)
    columns = resampling_matrix(boxes[:, 1], boxes[:, 3], W, size)
    columns = torch.where(flips[:, None, None], columns.flip(1), columns)
    return rows.to(pixels.dtype), columns.to(pixels.dtype)


def shuffle_patches(view: Tensor, orders: Tensor, grid: int) -> Tensor:
    """Views with their patches in other orders: `[..., 3, H, W]`, `[..., P, grid * grid]` -> `[..., P, 3, H, W]`.

    Rows and columns left over by the division stay where they are.

    Raises:
        UserError: the view is smaller than the grid.
    """
    *lead, C, H, W = view.shape
    ph, pw = H // grid, W // grid
    if ph == 0 or pw == 0:
        raise UserError(f"A {H} x {W} view cannot be divided into {grid} x {grid} patches; lower patch_grid.")
    B, P = math.prod(lead), orders.shape[-2]
    views, orders = view.reshape(B, C, H, W), orders.reshape(B, P, grid * grid)
    body = views[:, :, : ph * grid, : pw * grid].reshape(B, C, grid, ph, grid, pw)
    patches = body.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # [B, g * g, C, ph, pw]
    shuffled = patches[torch.arange(B, device=view.device)[:, None, None], orders]  # [B, P, g * g, C, ph, pw]
    body = shuffled.reshape(B, P, grid, grid, C, ph, pw).permute(0, 1, 4, 2, 5, 3, 6)
    made = views[:, None].expand(B, P, C, H, W).clone()
    made[..., : ph * grid, : pw * grid] = body.reshape(B, P, C, ph * grid, pw * grid)
    return made.reshape(*lead, P, C, H, W)


def sharpened(pixels: Tensor, size: int, settings: ViewSettings) -> Tensor:
    """The image `[3, H, W]` with its sharpness restored as far as the model can see it.

    Blur matters at the model's scale. So a larger image is first brought to the size at which the smallest crop still has as
    many pixels as the model reads; one that is sharp enough there comes back as it is.
    """
    if not settings.acutance:
        return pixels
    H, W = pixels.shape[1:]
    short = _short_side(size, settings)
    if min(H, W) <= short:
        return restore_sharpness(pixels, settings.acutance)
    scale = short / min(H, W)
    small = resize(pixels, [round(H * scale), round(W * scale)], antialias=True)
    restored = restore_sharpness(small, settings.acutance)
    return pixels if restored is small else restored


@final
class ImageViews:
    """The views and content-free views of one image, made when they are asked for and normalised, on the CPU.

    `view_batch.ViewBatch` makes those of several images, on any device.

    Attributes:
        first: `[3, S, S]`, view 0.
        settings: counts and distributions.
    """

    def __init__(
        self,
        image: Image.Image,
        first_view: Tensor,
        image_id: str,
        seed: int,
        settings: ViewSettings,
        mean: Tensor,
        std: Tensor,
    ) -> None:
        """
        Args:
            image: the decoded RGB image that is cropped; a large one is reduced first (see `size_to_cut`).
            first_view: `[3, S, S]`, the model's own preprocessing of it.
            image_id: names the image; with the seed it decides every random number.
            seed: of the run.
            settings: counts and distributions.
            mean: `[3]` of the model's normalisation.
            std: `[3]`.
        """
        self.first, self.settings = first_view, settings
        reduced = size_to_cut(image.height, image.width, first_view.shape[-1], settings)
        self._image = image if reduced is None else image.resize(reduced[::-1], _REDUCING)
        self._mean, self._std = mean, std
        self.image_id, self.seed = image_id, seed
        self._boxes, self.flips = draw_boxes(
            image_generator(seed, image_id, "crops"), settings.views - 1, self._image.height, self._image.width, settings
        )

    def ready(self) -> None:
        """Does now what is otherwise done when it is first asked for. Runs on any thread."""
        _ = self.source, self.contrast

    @cached_property
    def pixels(self) -> Tensor:
        """The image, reduced where it is large, uint8 `[3, H, W]`."""
        return torch.from_numpy(np.array(self._image)).permute(2, 0, 1)

    @cached_property
    def _floats(self) -> Tensor:
        return self.pixels.float() / 255

    @cached_property
    def _sharp(self) -> Tensor:
        return sharpened(self._floats, self.first.shape[-1], self.settings)

    @property
    def source(self) -> Tensor:
        """What is cropped: the pixels, uint8, or where sharpness was restored float32 in 0..1, perhaps smaller. `[3, h, w]`."""
        return self.pixels if self._sharp is self._floats else self._sharp

    @cached_property
    def contrast(self) -> Tensor:
        """Quantiles of the source's channels, `[2, 3]` (see `restoration.contrast_range`)."""
        if self._sharp is self._floats:
            return contrast_range_of(self._image.histogram())
        return contrast_range(self._sharp)

    @cached_property
    def _restored(self) -> Tensor:
        return stretch(self._sharp, self.contrast)

    @property
    def boxes(self) -> Tensor:
        """`[V - 1, 4]`, in pixels of the source."""
        scale = torch.tensor(self._sharp.shape[1:]) / torch.tensor(self.pixels.shape[1:])
        return self._boxes * scale.repeat(2)

    @property
    def orders(self) -> Tensor:
        """Of the patches of the content-free views: `[P, grid * grid]`."""
        P, grid = self.settings.content_free, self.settings.patch_grid
        return torch.rand((P, grid**2), generator=image_generator(self.seed, self.image_id, "copies")).argsort(-1)

    def views(self, which: range) -> Tensor:
        """A run of the V views: `[n, 3, S, S]`. The same pixels in whatever runs they are made."""
        views = self.first.new_empty((len(which), *self.first.shape))
        if which.start == 0 < which.stop:
            views[0] = self.first
        for restored in (False, True):
            if count := crops_of(self.settings, which, restored):
                source, crops = self._restored if restored else self._sharp, [number - 1 for number in count]
                made = crop_and_resize(source, self.boxes[crops], self.flips[crops], self.first.shape[-1])
                made = (made - self._mean[:, None, None]) / self._std[:, None, None]
                views[[number - which.start for number in count]] = made.to(self.first.dtype)
        return views

    def content_free(self) -> Tensor:
        """`[P, 3, S, S]`."""
        return shuffle_patches(self.first, self.orders, self.settings.patch_grid)


def crops_of(settings: ViewSettings, which: range, restored: bool) -> list[int]:
    """Numbers of the views in a run that are crops of the image with its contrast restored, or of the image without.

    The two kinds are evenly interleaved, so that the first few views are a fair sample of all.
    """
    share = settings.restored
    numbers = range(max(1, which.start), which.stop)
    return [n for n in numbers if (math.floor(n * share) > math.floor((n - 1) * share)) == restored]
