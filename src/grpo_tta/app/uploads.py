"""Uploads as images. Messages name a file as its owner does, not by the place where the server keeps it. No Gradio."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from grpo_tta.errors import UserError
from grpo_tta.images.read import DecodedImage, load_decoded, load_image


def load_upload(path: Path) -> Image.Image:
    """All pixels of an upload, as upright 8-bit RGB.

    Raises:
        UserError: the file is empty, no image, truncated, or too large.
    """
    try:
        return load_image(path)
    except UserError as error:
        raise UserError(without_folder(error, path)) from None


def decode_upload(path: Path, least_side: int | None) -> DecodedImage:
    """An upload in as few pixels as are needed, as `predict` decodes it.

    Raises:
        UserError: as `load_upload`.
    """
    try:
        return load_decoded(path, least_side)
    except UserError as error:
        raise UserError(without_folder(error, path)) from None


def without_folder(error: Exception, path: Path) -> str:
    """What an error says of a file, by the file's own name alone."""
    return str(error).replace(str(path), path.name)
