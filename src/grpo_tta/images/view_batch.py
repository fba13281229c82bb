"""The views of several images: image by image on the CPU, all in a few batched products on any other device.

On another device the images lie in one padded tensor. A crop reads no pixel outside its box, so what pads is never seen. There
is one upload of each kind for the whole batch, whatever the number of images and views, and nothing waits for the device.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta.images.restoration import stretch
from grpo_tta.images.views import ImageViews, crop_matrices, crops_of, shuffle_patches

AT_ONCE = 16
"""Images whose crops are made in one product on another device; bounds memory."""


@final
@dataclass(frozen=True)
class _Crops:
    """The batch there, for one of the two kinds of crops.

    Attributes:
        pixels: `[B, 3, H, W]` in 0..1.
        numbers: of the views that are crops of these pixels.
        boxes, flips: of these views in their order, `[B, n, 4]` and `[B, n]`.
    """

    pixels: Tensor
    numbers: Sequence[int]
    boxes: Tensor
    flips: Tensor


@final
class ViewBatch:
    """B images, all with the same settings and seed.

    Attributes:
        settings, seed, image_ids: theirs.
    """

    def __init__(self, images: Sequence[ImageViews], device: torch.device, mean: Tensor, std: Tensor) -> None:
        """
        Args:
            images: at least one.
            device: where the views shall lie.
            mean, std: `[3]` of the model's normalisation, there.
        """
        self._images, self._mean, self._std = images, mean, std
        self.settings, self.seed = images[0].settings, images[0].seed
        self.image_ids = tuple(image.image_id for image in images)
        self._first = torch.stack([image.first for image in images]).to(device)
        self._there = None if device.type == "cpu" else _upload(images, device)

    def views(self, which: range, rows: Sequence[int] | None = None) -> Tensor:
        """A run of the views of all images, or of some: `[n images, n views, 3, S, S]`."""
        rows = range(len(self._images)) if rows is None else rows
        if self._there is None:
            return torch.stack([self._images[row].views(which) for row in rows])
        return torch.cat([self._made(self._there, which, rows[i : i + AT_ONCE]) for i in range(0, len(rows), AT_ONCE)])

    def content_free(self) -> Tensor:
        """`[B, P, 3, S, S]`."""
        orders = torch.stack([image.orders for image in self._images])
        return shuffle_patches(self._first, orders.to(self._first.device), self.settings.patch_grid)

    def _made(self, there: tuple[_Crops, ...], which: range, rows: Sequence[int]) -> Tensor:
        S = self._first.shape[-1]
        # a run of images needs no index, which would have to be uploaded
        some = slice(rows.start, rows.stop) if isinstance(rows, range) else torch.tensor(rows).to(self._first.device)
        views = {0: self._first[some]}
        for kind in there:
            begin, end = bisect_left(kind.numbers, which.start), bisect_left(kind.numbers, which.stop)
            if begin == end:
                continue
            made = self._normalised(crop_many(kind.pixels[some], kind.boxes[some, begin:end], kind.flips[some, begin:end], S))
            views |= {number: made[:, place] for place, number in enumerate(kind.numbers[begin:end])}
        return torch.stack([views[number] for number in which], dim=1)

    def _normalised(self, views: Tensor) -> Tensor:
        return (views - self._mean[:, None, None]) / self._std[:, None, None]


def crop_many(pixels: Tensor, boxes: Tensor, flips: Tensor, size: int) -> Tensor:
    """Crops of B images: `[B, 3, H, W]`, `[B, n, 4]`, `[B, n]` -> `[B, n, 3, size, size]`."""
    B, n = flips.shape
    rows, columns = (m.unflatten(0, (B, n)) for m in crop_matrices(pixels, boxes.flatten(0, 1), flips.flatten(), size))
    return torch.einsum("bnhcj,bnwj->bnchw", torch.einsum("bnhi,bcij->bnhcj", rows, pixels), columns)


def _upload(images: Sequence[ImageViews], device: torch.device) -> tuple[_Crops, ...]:
    sources = [image.source for image in images]
    if {source.dtype for source in sources} != {torch.uint8}:
        sources = [source.float() / 255 if source.dtype == torch.uint8 else source for source in sources]
    H, W = (max(source.shape[axis] for source in sources) for axis in (1, 2))
    padded = torch.stack([F.pad(source, (0, W - source.shape[2], 0, H - source.shape[1])) for source in sources])
    if device.type == "cuda":
        padded = padded.pin_memory()  # an upload of pinned memory does not wait
    sharp = padded.to(device, non_blocking=True)
    if sharp.dtype == torch.uint8:
        sharp = sharp.float() / 255
    restored = stretch(sharp, torch.stack([image.contrast for image in images]).to(device))
    boxes, flips = (torch.stack([getattr(image, name) for image in images]) for name in ("boxes", "flips"))
    settings, kinds = images[0].settings, []
    for pixels, of_restored in ((sharp, False), (restored, True)):
        numbers = crops_of(settings, range(1, settings.views), of_restored)
        crops = [number - 1 for number in numbers]
        kinds.append(_Crops(pixels, numbers, boxes[:, crops].to(device), flips[:, crops].to(device)))
    return tuple(kinds)
