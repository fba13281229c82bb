"""Reading images: every file becomes an upright, opaque, 8-bit RGB image, or one sentence that says why not."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, final

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
LARGE = 2_000_000
"""Pixels beyond which an encoded image may be reduced while it is decoded, and is known by its bytes."""
_BASE64 = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk0", "SUkq", "TU0A")
"""How PNG, JPEG, GIF, WebP, BMP and TIFF begin in base64."""


@final
@dataclass(frozen=True)
class DecodedImage:
    """An image that views can be made of.

    Attributes:
        image: upright 8-bit RGB, at the size that was asked for.
        key: names the image's random numbers: a hash of all its pixels. Of an encoded image of more than `LARGE` pixels a hash
            of its bytes, because then not all pixels are decoded. It does not depend on the size that was asked for.
    """

    image: Image.Image
    key: str


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
    """Reads one file, all of its pixels.

    Raises:
        UserError: the file is missing, empty, no image, truncated, or too large.
    """
    path = _checked(path)
    return read_image(path, str(path))


def load_decoded(path: str | Path, least_side: int | None) -> DecodedImage:
    """Reads one file, in as few pixels as are needed (see `decode`).

    Raises:
        UserError: as `load_image`.
    """
    path = _checked(path)
    return read_decoded(path, str(path), least_side)


def _checked(path: str | Path) -> Path:
    path = Path(path)
    found = stat_of(path)
    if found is None or not stat.S_ISREG(found.st_mode):
        raise UserError(f"{shown_path(path)}: no such file; {remedy_of(path)}.")
    if found.st_size == 0:
        raise UserError(f"{path}: the file is empty; copy it again.")
    return path


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
    """Reads an encoded image, all of its pixels.

    Args:
        file: a path or an open file.
        name: what messages call it.

    Raises:
        UserError: no image, truncated, or too large.
    """
    with _faults_named(name), _opened(file, name) as image:
        image.load()
        return _to_rgb(image, name)


def read_decoded(file: Path | BinaryIO, name: str, least_side: int | None) -> DecodedImage:
    """Reads an encoded image, in as few pixels as are needed (see `decode`).

    Args:
        file, name: as for `read_image`. Of an open file all is read, from wherever it stands.

    Raises:
        UserError: as `read_image`.
    """
    with _faults_named(name):
        if not isinstance(file, Path):
            file = io.BytesIO(_content(file))  # read twice: its bytes may be its key
        with _opened(file, name) as image:
            return decode(image, lambda: bytes_key(file), least_side, lambda image: _to_rgb(image, name))


def decode(
    opened: Image.Image,
    key_of_bytes: Callable[[], str],
    least_side: int | None,
    convert: Callable[[Image.Image], Image.Image] = to_rgb,
) -> DecodedImage:
    """Decodes an image of which only the header was read.

    A large JPEG is reduced while it is decoded (by its cosine transform, to 1/2, 1/4 or 1/8), and whatever is still larger
    than needed by whole blocks of pixels.

    Args:
        opened: by `open_encoded`. It is changed.
        key_of_bytes: makes the key of a large image.
        least_side: the shorter side never becomes smaller than that; None keeps all pixels.
        convert: from decoded pixels to upright RGB.
    """
    large = opened.width * opened.height > LARGE
    if large and least_side is not None and (factor := min(opened.size) // least_side) > 1:
        opened.draft(None, (opened.width // factor, opened.height // factor))  # None keeps the mode
    opened.load()
    image = convert(opened)
    return DecodedImage(shrink(image, least_side), key_of_bytes() if large else image_key(image))


def shrink(image: Image.Image, least_side: int | None) -> Image.Image:
    """The means of square blocks of pixels, as large as leaves the shorter side at `least_side` or more."""
    factor = min(image.size) // least_side if least_side else 1
    return image.reduce(factor) if factor > 1 else image


def _content(file: BinaryIO) -> bytes:
    with contextlib.suppress(AttributeError, OSError):  # Pillow, too, begins at the beginning where that can be done
        file.seek(0)
    return file.read()


@contextlib.contextmanager
def _opened(file: Path | BinaryIO, name: str) -> Iterator[Image.Image]:
    with open_encoded(file) as image:
        if image.width * image.height > MAX_PIXELS:
            raise UserError(
                f"{name}: {image.width} x {image.height} pixels are too many (at most {MAX_PIXELS:,}); shrink the image."
            )
        yield image


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    try:
        return to_rgb(image)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


@contextlib.contextmanager
def _faults_named(name: str) -> Iterator[None]:
    try:
        yield
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


def bytes_key(file: Path | io.BytesIO) -> str:
    """Hash of an encoded image, the identity of a large one that has no other."""
    if isinstance(file, io.BytesIO):
        return hashlib.blake2b(file.getbuffer(), digest_size=16).hexdigest()
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
