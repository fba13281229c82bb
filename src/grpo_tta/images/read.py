"""Reading images: every file becomes an upright, opaque, 8-bit RGB image, or one sentence that says why not."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from grpo_tta.errors import UserError
from grpo_tta.images.depth import note_depth, spread_colours, white_of

HEIF_SUFFIXES = (".heic", ".heics", ".heif", ".heifs", ".hif")
"""Read where the optional pillow-heif is installed."""
_HEIF = find_spec("pillow_heif") is not None
_SUFFIXES_OF = {
    "JPEG": ".jpg .jpeg .jpe .jfif .mpo",
    "PNG": ".png .apng",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "DIB": ".dib",
    "TIFF": ".tif .tiff",
    "PPM": ".pbm .pgm .ppm .pnm .pfm",
    "AVIF": ".avif .avifs",
    "JPEG2000": ".jp2 .j2k .jpc .jpf .jpx .j2c",
    "TGA": ".tga .icb .vda .vst",
    "QOI": ".qoi",
    "ICO": ".ico",
    "CUR": ".cur",
    "ICNS": ".icns",
    "PSD": ".psd",
    "DDS": ".dds",
    "BLP": ".blp",
    "FTEX": ".ftc .ftu",
    "GBR": ".gbr",
    "SGI": ".sgi .rgb .rgba .bw",
    "SUN": ".ras",
    "PCX": ".pcx",
    "DCX": ".dcx",
    "PCD": ".pcd",
    "PIXAR": ".pxr",
    "MSP": ".msp",
    "IM": ".im",
    "IPTC": ".iim",
    "FITS": ".fit .fits",
    "FLI": ".fli .flc",
    "XBM": ".xbm",
    "XPM": ".xpm",
} | ({"HEIF": " ".join(HEIF_SUFFIXES)} if _HEIF else {})
FORMATS = tuple(_SUFFIXES_OF)
"""What Pillow reads by itself. PostScript and Windows metafiles are left out: they run through other programs."""
SUFFIXES = frozenset(suffix for suffixes in _SUFFIXES_OF.values() for suffix in suffixes.split())
MAX_PIXELS = 178_956_970  # where Pillow itself speaks of a decompression bomb
MAX_ASPECT = 100
"""Longer side over shorter side. A model's preprocessing enlarges the shorter side to its input, and the longer with it."""
_BASE64 = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk0", "SUkq", "TU0A")
"""How PNG, JPEG, GIF, WebP, BMP and TIFF begin in base64."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright 8-bit RGB: EXIF rotation applied, 16-bit and float grey scaled to 8 bits, alpha laid over white.

    Raises:
        UserError: the image has no pixels, is extremely long and narrow, or holds NaN.
    """
    if 0 in image.size:
        raise UserError("The image has no pixels.")
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise UserError(
            f"The image has {image.width} x {image.height} pixels, more than {MAX_ASPECT} times as long as wide; crop it."
        )
    image = spread_colours(image)
    top = white_of(image) if image.mode.startswith("I") else 0.0
    hidden = image.info.get("transparency")
    with contextlib.suppress(Exception):  # damaged EXIF data over sound pixels: the image stays as it lies
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        grey = np.asarray(image, dtype=np.float64)
        if not np.isfinite(grey).all():
            raise UserError("The image holds NaN or infinite values.")
        # Integers are read on their file's scale; floats on 0..1 when they fit in it, else on their own range.
        shown = grey
        if image.mode == "F":
            shown = grey - min(grey.min(), 0.0)
            top = max(1.0, float(shown.max()))
        scaled = np.clip(np.rint(shown * (255.0 / top)), 0, 255)
        if isinstance(hidden, int):  # the grey value that stands for "transparent"
            scaled[grey == hidden] = 255
        image = Image.fromarray(scaled.astype(np.uint8))
    elif image.mode == "RGB" and isinstance(hidden, tuple) and max(hidden) > 255:
        # A colour of 16 bits per channel. Pillow keeps the upper eight bits of the pixels, but all of this one.
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in hidden)
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
    found = stat_of(path)
    if found is None or not stat.S_ISREG(found.st_mode):
        raise UserError(f"{shown_path(path)}: no such file; {remedy_of(path)}.")
    if found.st_size == 0:
        raise UserError(f"{path}: the file is empty; copy it again.")
    return read_image(path, str(path))


def stat_of(path: Path) -> os.stat_result | None:
    """What the file system says of a path that a user gave; None where nothing is there.

    Raises:
        UserError: it is too long for a path, holds what no path may hold, or lies in a folder that cannot be entered.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        remedy = "check the rights of its folder" if isinstance(error, PermissionError) else remedy_of(path)
        shown = shown_path(path)
        raise UserError(f"{shown}: no file or folder can be opened by this name ({why}); {remedy}.") from None


def shown_path(path: Path) -> str:
    """A path as messages show it: one that is too long to be one is cut."""
    text = str(path)
    return text if len(text) <= 240 else f"{text[:60]}… ({len(text)} characters)"


def remedy_of(path: Path) -> str:
    """What to do where there is nothing by the name of a path: an encoded image is a frequent mistake."""
    text = str(path)
    if text.startswith("data:") or (len(text) > 80 and text.startswith(_BASE64)):
        return "this is the image itself in base64, so decode it and write it to a file, or send it to the service"
    return "check the path"


def read_image(file: Path | BinaryIO, name: str) -> Image.Image:
    """Reads an encoded image.

    Args:
        file: a path or an open file.
        name: what messages call it.

    Raises:
        UserError: no image, truncated, or too large.
    """
    try:
        with open_encoded(file) as image:
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
        remedy = "remove it or convert it to PNG or JPEG"
        if name.lower().endswith(HEIF_SUFFIXES) and not _HEIF:
            remedy = "HEIC is read with: pip install 'grpo-tta[heic]'"
        raise UserError(f"{name}: not an image in a known format; {remedy}.") from None
    except Image.DecompressionBombError:
        raise UserError(f"{name}: too many pixels to open safely; shrink the image.") from None
    except PermissionError as error:
        raise UserError(f"{name}: cannot be opened ({error.strerror}); check the rights of the file and its folder.") from None
    except Exception as error:  # readers of damaged files raise anything
        raise UserError(f"{name}: truncated or damaged ({error}); copy or export it again.") from None


def open_encoded(file: Path | BinaryIO) -> Image.Image:
    """Opens an image of one of `FORMATS` without decoding its pixels. Raises whatever Pillow raises."""
    Image.init()  # once: Pillow finds its readers
    if _HEIF and "HEIF" not in Image.OPEN:
        import pillow_heif

        pillow_heif.register_heif_opener()
    return note_depth(Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN]))


def image_key(image: Image.Image) -> str:
    """Hash of the decoded pixels, the identity of an image that has no other."""
    digest = hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16)
    digest.update(repr(image.size).encode())
    return digest.hexdigest()
