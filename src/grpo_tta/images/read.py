"""Reading images: every file becomes an upright, opaque, 8-bit RGB image, or one sentence that says why not."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from grpo_tta.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jfif"})
MAX_PIXELS = 178_956_970  # where Pillow itself speaks of a decompression bomb


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright 8-bit RGB: EXIF rotation applied, 16-bit and float grey scaled to 8 bits, alpha laid over white.

    Raises:
        UserError: the image has no pixels or holds NaN.
    """
    if 0 in image.size:
        raise UserError("The image has no pixels.")
    with contextlib.suppress(Exception):  # damaged EXIF data over sound pixels: the image stays as it lies
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        grey = np.asarray(image, dtype=np.float64)
        if not np.isfinite(grey).all():
            raise UserError("The image holds NaN or infinite values.")
        # Integers are read on the 16-bit scale; floats on 0..1 when they fit in it, else on their own range.
        if image.mode != "F":
            top = 65535.0
        else:
            grey = grey - min(grey.min(), 0.0)
            top = max(1.0, float(grey.max()))
        image = Image.fromarray(np.clip(np.rint(grey * (255.0 / top)), 0, 255).astype(np.uint8))
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def load_image(path: str | Path) -> Image.Image:
    """Reads one file.

    Raises:
        UserError: the file is missing, empty, no image, truncated, or too large.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path.")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; copy it again.")
    return read_image(path, str(path))


def read_image(file: Path | BinaryIO, name: str) -> Image.Image:
    """Reads an encoded image.

    Args:
        file: a path or an open file.
        name: what messages call it.

    Raises:
        UserError: no image, truncated, or too large.
    """
    try:
        with Image.open(file) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(
                    f"{name}: {image.width} x {image.height} pixels are too many (at most {MAX_PIXELS:,}); shrink the image."
                )
            image.load()
            try:
                return to_rgb(image)
            except UserError as error:
                raise UserError(f"{name}: {error}") from None
    except (UserError, MemoryError):  # the second is the machine's fault, not the image's
        raise
    except UnidentifiedImageError:
        raise UserError(f"{name}: not an image in a known format; remove it or convert it to PNG or JPEG.") from None
    except Image.DecompressionBombError:
        raise UserError(f"{name}: too many pixels to open safely; shrink the image.") from None
    except Exception as error:  # readers of damaged files raise anything
        raise UserError(f"{name}: truncated or damaged ({error}); copy or export it again.") from None


def find_images(paths: list[Path]) -> list[Path]:
    """Files named by the user, and every image (by its suffix) below the folders named, in sorted order.

    Raises:
        UserError: nothing was named, a path does not exist, or a folder holds no image.
    """
    if not paths:
        raise UserError("No images were given; name files or folders.")
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; check the path.")
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise UserError(f"{path}: no images in this folder ({', '.join(sorted(SUFFIXES))}).")
            found += inside
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def image_key(image: Image.Image) -> str:
    """Hash of the decoded pixels, the identity of an image that has no other."""
    digest = hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16)
    digest.update(repr(image.size).encode())
    return digest.hexdigest()
