"""What a caller may hand over as an image, and how it becomes RGB."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO, TypeGuard, cast, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from grpo_tta.errors import UserError
from grpo_tta.images.read import (
    DecodedImage,
    image_key,
    load_decoded,
    load_image,
    read_decoded,
    read_image,
    shrink,
    to_rgb,
)


@final
@dataclass(frozen=True)
class EncodedImage:
    """An encoded image with the name that messages call it by."""

    content: bytes
    name: str


ImageLike = Image.Image | np.ndarray | Tensor | str | Path | bytes | BinaryIO | EncodedImage | DecodedImage
"""A PIL image; a uint8 array `[H, W]`, `[H, W, 3]` or `[H, W, 4]`; a tensor `[3, H, W]`, uint8 or float in [0, 1]; a path; an
encoded image as bytes or as a file opened for reading bytes."""
_ROUNDING = 1e-3
"""How far beyond [0, 1] a float may be: what resizing leaves, and less than half a step of 8 bits."""


def is_one_image(images: object) -> TypeGuard[ImageLike]:
    """Whether this is a single image rather than many. A tensor of four axes is many."""
    if isinstance(images, Tensor):
        return images.ndim != 4
    known = isinstance(
        images, Image.Image | np.ndarray | str | Path | bytes | bytearray | memoryview | EncodedImage | DecodedImage
    )
    return known or hasattr(images, "read")


def is_stored(image: object) -> TypeGuard[str | Path]:
    """Whether the image has still to be read from somewhere, so that reading it ahead is worth a thread."""
    return isinstance(image, str | Path)


def decode_image(image: ImageLike, least_side: int | None) -> DecodedImage:
    """An image that views can be made of, with the key of its random numbers.

    Args:
        least_side: shorter side in pixels to which a larger image may be reduced; None keeps all pixels.

    Raises:
        UserError: as `to_image`.
    """
    if isinstance(image, DecodedImage):
        return image
    if isinstance(image, str | Path):
        return load_decoded(image, least_side)
    if (encoded := _encoded(image)) is not None:
        return read_decoded(*encoded, least_side)
    whole = to_image(image)
    return DecodedImage(shrink(whole, least_side), image_key(whole))


def to_image(image: ImageLike) -> Image.Image:
    """Upright 8-bit RGB, all of its pixels.

    Raises:
        UserError: a type or shape that is no image, NaN or values outside [0, 1], a file that is missing, damaged or too large.
    """
    if isinstance(image, DecodedImage):
        return image.image
    if isinstance(image, str | Path):
        return load_image(image)
    if (encoded := _encoded(image)) is not None:
        return read_image(*encoded)
    if isinstance(image, Tensor):
        return _from_tensor(image)
    if isinstance(image, np.ndarray):
        return to_rgb(_from_array(image))
    if not isinstance(image, Image.Image):
        raise UserError(
            "An image must be a path, a PIL image, a uint8 array, a tensor [3, H, W], bytes or a binary file, "
            f"not {type(image).__name__}."
        )
    try:
        image.load()
    except MemoryError:  # the machine's fault, not the image's
        raise
    except Exception as error:  # opened by the caller, and read only now
        raise UserError(f"The image cannot be read: truncated or damaged ({error}).") from None
    return to_rgb(image)


def _encoded(image: object) -> tuple[BinaryIO, str] | None:
    """An open file of an encoded image and its name; None of what is not encoded, or lies at a path.

    Raises:
        UserError: no bytes, or a file that is closed or opened as text.
    """
    if isinstance(image, EncodedImage):
        return io.BytesIO(image.content), image.name
    if isinstance(image, bytes | bytearray | memoryview):
        if not len(image):
            raise UserError("The image has no bytes; read its file again.")
        return io.BytesIO(image), "The image in bytes"
    known = isinstance(image, Image.Image | np.ndarray | Tensor)
    return None if known or not hasattr(image, "read") else _file(cast(BinaryIO, image))


def _from_array(image: np.ndarray) -> Image.Image:
    grey = image.ndim == 2
    if image.dtype != np.uint8 or not (grey or (image.ndim == 3 and image.shape[2] in (3, 4))):
        raise UserError(f"An array image must be uint8 [H, W], [H, W, 3] or [H, W, 4], not {image.dtype} {image.shape}.")
    return Image.fromarray(image)


def _from_tensor(image: Tensor) -> Image.Image:
    if image.ndim != 3 or image.shape[0] != 3:
        raise UserError(f"A tensor image must be [3, H, W], not {list(image.shape)}.")
    return to_rgb(Image.fromarray(to_bytes(image).permute(1, 2, 0).contiguous().numpy()))


def to_bytes(pixels: Tensor) -> Tensor:
    """Pixels as uint8 on the CPU; floats in [0, 1] are rounded to 8 bits, as a decoded image has them.

    Raises:
        UserError: another dtype, no pixels, NaN, or values outside [0, 1].
    """
    if pixels.numel() == 0:
        raise UserError(f"The tensor {list(pixels.shape)} has no pixels.")
    if pixels.dtype == torch.uint8:
        return pixels.detach().cpu()
    if not pixels.is_floating_point():
        raise UserError(f"A tensor image must be uint8, or float in [0, 1], not {str(pixels.dtype).removeprefix('torch.')}.")
    pixels = pixels.detach().float().cpu()
    if not torch.isfinite(pixels).all():
        raise UserError("The tensor image holds NaN or infinite values.")
    low, high = float(pixels.min()), float(pixels.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise UserError(
            f"A float tensor image must lie in [0, 1], not in [{low:.3g}, {high:.3g}]; divide by 255, or leave the "
            "normalisation to the model."
        )
    return (255 * pixels).round().clamp(0, 255).to(torch.uint8)


def _file(file: BinaryIO | TextIO) -> tuple[BinaryIO, str]:
    name = getattr(file, "name", None)
    name = f"The image in the file {name}" if isinstance(name, str) else "The image in the open file"
    if isinstance(file, io.TextIOBase):
        raise UserError(f"{name}: opened as text; open it for reading bytes, with mode 'rb'.")
    if getattr(file, "closed", False):
        raise UserError(f"{name}: the file is closed; open it again.")
    return cast(BinaryIO, file), name
