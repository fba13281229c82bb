"""The true range of samples that need fewer bits than they are stored in: 10, 12 or 14 bits in files of 16.

Files say it in PNG's `sBIT` chunk (the bits of a sample that carry data) and TIFF's tags of the largest sample. By PNG's
standard such samples are scaled up to all 16 bits. Many writers store them in the low bits, as they come from the sensor. Such
an image is nearly black where nobody looks at what the file says.
"""

from __future__ import annotations

import contextlib
import io
import sys
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin

FULL = 65535
_NOTE = "grpo_tta.depth"
"""Key of `Image.info`."""
_MAX_SAMPLE, _SMAX_SAMPLE, _BITS_PER_SAMPLE = 281, 341, 258  # tags of TIFF
_SWAPPED = "16L" if sys.byteorder == "big" else "16B"
_LOWER_HALF = {"16B": "16L", "16L": "16B", "16N": _SWAPPED}
"""Byte orders by the one in which Pillow finds the other half of each sample."""


def note_depth(image: Image.Image) -> Image.Image:
    """Keeps what the file of an image that is not decoded yet says of its samples' range; returns the image."""
    found = _noted(image)
    if found[0] < FULL:
        image.info[_NOTE] = found
    return image


def white_of(image: Image.Image) -> float:
    """The value of white in an image of integers: the largest of the range that the file states, where the data bear it out."""
    top, _ = _noted(image)
    return top if top < FULL and _lies_low(np.asarray(image), top, is_png=_is_png(image)) else FULL


def spread_colours(image: Image.Image) -> Image.Image:
    """Scales colours of 16 bits that lie in the low bits to 8 bits of the range that their file states.

    A transparent colour (`info["transparency"]`) is scaled with them. Any other image is returned as it is.
    """
    top, content = _noted(image)
    if not content or image.mode not in ("RGB", "RGBA"):
        return image
    samples = _samples(image, content)
    if not _lies_low(samples, top, is_png=_is_png(image)):
        return image
    scaled = Image.fromarray(np.rint(samples * (255.0 / top)).astype(np.uint8))
    scaled.info = {key: value for key, value in image.info.items() if key != _NOTE}
    if isinstance(hidden := scaled.info.get("transparency"), tuple):
        scaled.info["transparency"] = tuple(min(255, round(value * 255 / top)) for value in hidden)
    with contextlib.suppress(Exception):  # damaged EXIF data over sound pixels, as in `to_rgb`
        scaled.info["exif"] = image.getexif().tobytes()
    return scaled


def _noted(image: Image.Image) -> tuple[float, bytes]:
    """The largest sample that the file states, and the file of colours, of which Pillow decodes the upper eight bits alone."""
    if _NOTE in image.info:
        top, content = image.info[_NOTE]
        return top, content
    top, file = _stated(image), _open_file(image)
    is_colour = image.mode in ("RGB", "RGBA") and any(";16" in str(tile.args) for tile in _tiles(image))
    return top, _content(file) if top < FULL and is_colour and file is not None else b""


def _open_file(image: Image.Image) -> IO[bytes] | None:
    """The file that an image is still to be decoded from, if any."""
    file: IO[bytes] | None = getattr(image, "fp", None)
    return None if file is None or getattr(file, "closed", False) else file


def _lies_low(samples: np.ndarray, top: float, *, is_png: bool) -> bool:
    """Whether samples fill the range 0..top as it is, and are not scaled up to 16 bits.

    Scaled-up samples of n bits that are all below 2**n have no bit set among the lowest 16 - n: they are a dark image.
    """
    if samples.max() > top:
        return False
    lowest = (1 << (16 - int(top).bit_length())) - 1
    return not is_png or bool((samples & lowest).any())


def _samples(image: Image.Image, content: bytes) -> np.ndarray:
    """All 16 bits of each sample, `[H, W, channels]`: the lower half from a second decoding."""
    with Image.open(io.BytesIO(content), formats=("PNG", "TIFF")) as again:
        tiles = _tiles(again)
        is_grey = any("LA;16B" in str(tile.args) for tile in tiles)
        again.tile = [tile._replace(args=_other_half(tile.args)) for tile in tiles]
        upper, lower = np.asarray(image, np.uint16), np.asarray(again, np.uint16)
    if is_grey:  # its four bytes: two of grey, two of alpha
        grey, alpha = lower[..., 0] << 8 | lower[..., 1], lower[..., 2] << 8 | lower[..., 3]
        return np.stack([grey, grey, grey, alpha], axis=-1)
    return upper << 8 | lower


def _other_half(arguments: Any) -> Any:
    """A decoder's arguments with the raw mode that yields the lower bytes; of grey with alpha, all bytes."""
    if isinstance(arguments, tuple):
        return tuple(map(_other_half, arguments))
    if not isinstance(arguments, str) or ";16" not in arguments:
        return arguments
    name, _, order = arguments.partition(";")
    return "RGBA" if name == "LA" else f"{name};{_LOWER_HALF[order]}"


def _tiles(image: Image.Image) -> list[ImageFile._Tile]:
    return list(getattr(image, "tile", []))


def _is_png(image: Image.Image) -> bool:
    return isinstance(image, PngImagePlugin.PngImageFile)


def _stated(image: Image.Image) -> float:
    """The largest sample that the file states; `FULL` where it states none below."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        for tag in (_MAX_SAMPLE, _SMAX_SAMPLE):
            value = tags.get(tag)
            value = value[0] if isinstance(value, tuple) and value else value
            if isinstance(value, int | float) and 0 < value < FULL:
                return float(value)
        bits = tags.get(_BITS_PER_SAMPLE, (16,))
        if isinstance(bits, tuple) and bits and 8 < bits[0] < 16:
            return float(2 ** bits[0] - 1)
    elif isinstance(image, PngImagePlugin.PngImageFile) and (file := _open_file(image)) is not None:
        bits = _significant_bits(file)
        if 0 < bits < 16:
            return float(2**bits - 1)
    return FULL


def _significant_bits(file: IO[bytes]) -> int:
    """The largest number in a PNG's `sBIT` chunk, for files of 16 bits; 16 without one. The file's place is kept.

    Pillow has walked these chunks, and compared their check sums, when it opened the file.
    """
    place = file.tell()
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind in (b"PLTE", b"IDAT", b"IEND"):
                break
            if kind in (b"IHDR", b"sBIT"):
                data = file.read(length)
                if kind == b"sBIT":
                    return max(data, default=16)
                if len(data) < 9 or data[8] != 16:
                    break
                length = 0
            file.seek(length + 4, io.SEEK_CUR)
    finally:
        file.seek(place)
    return 16


def _content(file: IO[bytes]) -> bytes:
    place = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(place)
    return content
