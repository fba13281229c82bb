"""Augmented views and content-free copies of one image, drawn from numbers that belong to that image alone.

View 0 is the model's own preprocessing. The others are random resized crops with flips, the standard recipe of the
field (TPT, arXiv 2209.07511). A crop is resampled by two small matrices per view (one for rows, one for columns) that
hold an antialiased triangle filter, so that all views of an image are one batched product on any device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from grpo_tta.errors import UserError
from grpo_tta.restoration import restore_contrast, restore_sharpness
from grpo_tta.seeds import image_generator

_WORKING = 4 / 3
"""A crop of half of the area of such a picture still has nearly as many pixels as the model reads."""

CopyKind = Literal["shuffled", "crops"]


@final
@dataclass(frozen=True)
class ViewSettings:
    """How many views, and what they are made of.

    Attributes:
        views: V, view 0 included.
        copies: P, content-free copies.
        crop_scale: smallest and largest share of the image's area in a crop.
        crop_ratio: narrowest and widest aspect ratio of a crop.
        flip: probability of a left-right flip.
        restored: share of the crops taken from the picture with its contrast restored (see `restore_contrast`).
        acutance: least abruptness of the picture that crops are taken from; a blurred one is sharpened up to it (see
            `restore_sharpness`). 0 leaves every picture as it is.
        copy_kind: `shuffled`: view 0 with its patches in another order; `crops`: crops so small that the object is not
            in them. Both keep the picture's low-level statistics.
        patch_grid: a shuffled copy is view 0 cut into patch_grid x patch_grid pieces.
        copy_scale: smallest and largest share of the image's area in a copy that is a crop.
    """

    views: int = 24
    copies: int = 4
    crop_scale: tuple[float, float] = (0.5, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    restored: float = 0.5
    acutance: float = 0.0
    copy_kind: CopyKind = "shuffled"
    patch_grid: int = 12
    copy_scale: tuple[float, float] = (0.03, 0.12)

    def __post_init__(self) -> None:
        if self.views < 1:
            raise UserError(f"{self.views} views cannot be adapted on; set views to at least 1.")
        if self.copies < 0:
            raise UserError(f"The number of copies cannot be {self.copies}; set copies to 0 or more.")
        for name, (low, high) in (("crop_scale", self.crop_scale), ("copy_scale", self.copy_scale)):
            if not 0 < low <= high <= 1:
                raise UserError(f"{name} must be two shares with 0 < low <= high <= 1, not {(low, high)}.")
        if self.copy_kind not in ("shuffled", "crops"):
            raise UserError(f"Unknown kind of copies {self.copy_kind!r}; choose shuffled or crops.")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise UserError(f"crop_ratio must be two positive numbers, low first, not {self.crop_ratio}.")
        if not 0 <= self.restored <= 1:
            raise UserError(f"restored is a share between 0 and 1, not {self.restored}.")
        if not 0 <= self.acutance < 1:
            raise UserError(f"acutance is a ratio from 0 (leave every picture as it is) to below 1, not {self.acutance}.")
        if not 0 <= self.flip <= 1:
            raise UserError(f"flip is a probability between 0 and 1, not {self.flip}.")
        if self.patch_grid < 2:
            raise UserError(f"patch_grid must be at least 2 to shuffle anything, not {self.patch_grid}.")


def draw_boxes(
    generator: torch.Generator, n: int, height: int, width: int, scale: tuple[float, float], settings: ViewSettings
) -> tuple[Tensor, Tensor]:
    """n crops of a share `scale` of the area: boxes `[n, 4]` (top, left, height, width in pixels) and flips `[n]` bool.

    The first crops are the same whatever n is, so that methods with fewer views see a part of the same views.
    """
    u = torch.rand((n, 5), generator=generator, dtype=torch.float64).T
    low, high = scale
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
    _, H, W = pixels.shape
    boxes = boxes.to(pixels.device)
    rows = resampling_matrix(boxes[:, 0], boxes[:, 2], H, size)
    columns = resampling_matrix(boxes[:, 1], boxes[:, 3], W, size)
    columns = torch.where(flips.to(pixels.device)[:, None, None], columns.flip(1), columns)
    rows, columns = rows.to(pixels.dtype), columns.to(pixels.dtype)
    return torch.einsum("nhi,cij,nwj->nchw", rows, pixels, columns)


def shuffle_patches(view: Tensor, permutations: Tensor, grid: int) -> Tensor:
    """Copies of a view with its patches in another order: `[3, H, W]`, `[P, grid * grid]` -> `[P, 3, H, W]`.

    Rows and columns left over by the division stay where they are.

    Raises:
        UserError: the view is smaller than the grid.
    """
    C, H, W = view.shape
    ph, pw = H // grid, W // grid
    if ph == 0 or pw == 0:
        raise UserError(f"A {H} x {W} view cannot be cut into {grid} x {grid} patches; lower patch_grid.")
    patches = view[:, : ph * grid, : pw * grid].reshape(C, grid, ph, grid, pw).permute(1, 3, 0, 2, 4).flatten(0, 1)
    shuffled = patches[permutations.to(view.device)]  # [P, grid * grid, C, ph, pw]
    P = len(permutations)
    body = shuffled.reshape(P, grid, grid, C, ph, pw).permute(0, 3, 1, 4, 2, 5).reshape(P, C, ph * grid, pw * grid)
    copies = view.expand(P, C, H, W).clone()
    copies[:, :, : ph * grid, : pw * grid] = body
    return copies


def sharpened(pixels: Tensor, size: int, target: float) -> Tensor:
    """The picture `[3, H, W]` with its sharpness restored as far as the model can see it.

    A picture much larger than the model's input is brought to `_WORKING` times that first, since blur matters at that scale;
    one that is sharp enough there comes back as it is.
    """
    if not target:
        return pixels
    H, W = pixels.shape[1:]
    short = math.ceil(_WORKING * size)
    if min(H, W) <= short:
        return restore_sharpness(pixels, target)
    scale = short / min(H, W)
    small = resize(pixels, [round(H * scale), round(W * scale)], antialias=True)
    mended = restore_sharpness(small, target)
    return pixels if mended is small else mended


def make_views(
    image: Image.Image,
    first_view: Tensor,
    image_id: str,
    seed: int,
    settings: ViewSettings,
    mean: Tensor,
    std: Tensor,
    which: range | None = None,
) -> tuple[Tensor, Tensor]:
    """Views `[V, 3, S, S]` and content-free copies `[P, 3, S, S]` of one image, normalised.

    Args:
        image: the decoded RGB picture that is cropped.
        first_view: `[3, S, S]`, the model's own preprocessing of it.
        image_id: names the image; with the seed it decides every random number.
        seed: of the run.
        settings: counts and distributions.
        mean: `[3]` of the model's normalisation.
        std: `[3]`.
        which: only these of the V views, a run of them; copies are then made only with view 0. None for all.
    """
    begin, end = (0, settings.views) if which is None else (which.start, which.stop)
    S = first_view.shape[-1]
    pixels = torch.from_numpy(np.array(image)).to(first_view.device).permute(2, 0, 1).float() / 255

    def crops(purpose: str, n: int, scale: tuple[float, float]) -> tuple[Tensor, Tensor]:
        return draw_boxes(image_generator(seed, image_id, purpose), n, image.height, image.width, scale, settings)

    def cut(source: Tensor, boxes: Tensor, flips: Tensor) -> Tensor:
        scale = torch.tensor(source.shape[1:]) / torch.tensor(pixels.shape[1:])
        made = crop_and_resize(source, boxes * scale.repeat(2), flips, S)
        return ((made - mean[:, None, None]) / std[:, None, None]).to(first_view.dtype)

    sharp = sharpened(pixels, S, settings.acutance) if end > max(1, begin) else pixels
    boxes, flips = crops("crops", settings.views - 1, settings.crop_scale)
    views = first_view.new_empty((end - begin, *first_view.shape))
    if begin == 0:
        views[0] = first_view
    # Evenly interleaved, so that the first few views are a fair sample of all.
    count = torch.arange(1, settings.views)
    wanted = (count >= begin) & (count < end)
    restored = (count * settings.restored).floor() > ((count - 1) * settings.restored).floor()
    for restore, of_kind in ((False, wanted & ~restored), (True, wanted & restored)):
        if of_kind.any():
            source = restore_contrast(sharp) if restore else sharp
            views[(count[of_kind] - begin).to(views.device)] = cut(source, boxes[of_kind], flips[of_kind])
    if begin > 0:
        return views, first_view.new_empty((0, *first_view.shape))
    if settings.copy_kind == "crops":
        return views, cut(pixels, *crops("copies", settings.copies, settings.copy_scale))
    order = torch.rand((settings.copies, settings.patch_grid**2), generator=image_generator(seed, image_id, "copies"))
    return views, shuffle_patches(first_view, order.argsort(-1), settings.patch_grid)
