"""Samples of 10, 12 and 14 bits in files of 16, in files made by hand: Pillow writes neither `sBIT` nor colours of 16 bits."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from grpo_tta.images.depth import white_of
from grpo_tta.images.read import open_encoded, read_image, to_rgb
from grpo_tta.service.images import Opened
from grpo_tta.service.limits import Limits

COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}
"""Of PNG, by channels."""


def png(pixels: np.ndarray, significant: int | None = None, **chunks: bytes) -> bytes:
    """A PNG of 16 bits, with `sBIT` where bits are given."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    parts = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, COLOUR_TYPE[channels], 0, 0, 0))
    parts += chunk(b"tEXt", b"Comment\0sBIT")  # the name in another chunk is no chunk
    if significant is not None:
        parts += chunk(b"sBIT", bytes([significant] * channels))
    for kind, data in chunks.items():
        parts += chunk(kind.encode(), data)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(pixels: np.ndarray, order: str, largest: int | None, orientation: int = 1) -> bytes:
    """Uncompressed RGB of 16 bits; `largest` is SMaxSampleValue."""
    height, width, _ = pixels.shape
    data = pixels.astype(f"{order}u2").tobytes()
    entries = [(256, width), (257, height), (259, 1), (262, 2), (274, orientation), (277, 3), (278, height), (279, len(data))]
    entries += [] if largest is None else [(341, largest)]
    after = 8 + 2 + 12 * (len(entries) + 2) + 4
    fields = [struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in entries]
    fields += [struct.pack(f"{order}HHII", 258, 3, 3, after), struct.pack(f"{order}HHII", 273, 4, 1, after + 6)]
    fields.sort(key=lambda field: struct.unpack(f"{order}H", field[:2]))
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(fields))
    return head + b"".join(fields) + b"\0\0\0\0" + struct.pack(f"{order}3H", 16, 16, 16) + data


def read(content: bytes) -> list[list[list[int]]]:
    found = read_image(io.BytesIO(content), "x")
    assert np.array_equal(found, Opened(content, 0, Limits()).decode(None).image)  # as the service reads it
    assert np.array_equal(found, to_rgb(Image.open(io.BytesIO(content))))  # and as a user's own open image
    return np.asarray(found).tolist()


def greys(content: bytes) -> list[list[int]]:
    return [[red for red, _, _ in row] for row in read(content)]


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
def test_samples_in_the_low_bits_are_scaled_by_their_range(bits: int) -> None:
    top = 2**bits - 1
    pixels = np.array([[0, top], [top // 2 + 1, top // 5]], np.uint16)
    assert greys(png(pixels, bits)) == [[0, 255], [128, 51]]


def test_samples_scaled_up_as_the_standard_says_are_left_alone() -> None:
    shifted = np.array([[0, 4095 << 4], [2048 << 4, 100 << 4]], np.uint16)
    assert greys(png(shifted, 12)) == greys(png(shifted)) == [[0, 255], [128, 6]]
    dark = np.array([[16, 32], [48, 4080]], np.uint16)  # of 12 bits 1, 2, 3 and 255, shifted
    assert greys(png(dark, 12)) == [[0, 0], [0, 16]]


def test_a_range_that_the_samples_do_not_keep_is_not_believed() -> None:
    pixels = np.array([[1, 4095], [4097, 65535]], np.uint16)
    assert greys(png(pixels, 12)) == greys(png(pixels)) == [[0, 16], [16, 255]]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF", tiffinfo={281: 4095})
    assert greys(file.getvalue()) == [[0, 16], [16, 255]]


@pytest.mark.parametrize("bits", [None, 0, 16, 17])
def test_without_a_smaller_range_white_is_that_of_16_bits(bits: int | None) -> None:
    pixels = np.array([[1, 4095]], np.uint16)
    assert greys(png(pixels, bits)) == [[0, 16]]


def test_colours_in_the_low_bits() -> None:
    pixels = np.array([[(4095, 0, 2048), (819, 100, 1)]], np.uint16)
    expected = [[[255, 0, 128], [51, 6, 0]]]
    assert read(png(pixels, 12)) == expected
    assert read(png(pixels << 4, 12)) == [[[255, 0, 128], [51, 6, 0]]]  # the upper eight bits
    assert read(png(pixels)) == [[[15, 0, 8], [3, 0, 0]]]
    opaque = np.concatenate([pixels, np.full((1, 2, 1), 4095, np.uint16)], axis=-1)
    assert read(png(opaque, 12)) == expected
    opaque[0, 1, 3] = 0  # transparent: white
    assert read(png(opaque, 12)) == [[[255, 0, 128], [255, 255, 255]]]


def test_grey_with_alpha_in_the_low_bits() -> None:
    pixels = np.array([[(4095, 4095), (819, 4095), (1, 4095), (1, 0)]], np.uint16)
    assert greys(png(pixels, 12)) == [[255, 51, 0, 255]]


def test_a_transparent_colour_in_the_low_bits() -> None:
    pixels = np.array([[(1000, 2000, 3000), (819, 0, 1)]], np.uint16)
    content = png(pixels, 12, tRNS=struct.pack(">3H", 1000, 2000, 3000))
    assert read(content) == [[[255, 255, 255], [51, 0, 0]]]
    assert greys(png(pixels[..., 0], 12, tRNS=struct.pack(">H", 1000))) == [[255, 51]]


@pytest.mark.parametrize("order", ["<", ">"])
def test_colours_of_a_tiff(order: str) -> None:
    pixels = np.array([[(4095, 0, 2048), (819, 100, 1)]], np.uint16)
    assert read(tiff(pixels, order, 4095)) == [[[255, 0, 128], [51, 6, 0]]]
    assert read(tiff(pixels, order, None)) == [[[15, 0, 8], [3, 0, 0]]]
    assert read(tiff(pixels, order, 4095, orientation=3)) == [[[51, 6, 0], [255, 0, 128]]]  # half a turn


def test_an_open_image_of_the_users_own_is_not_changed() -> None:
    image = Image.open(io.BytesIO(png(np.array([[(4095, 0, 1)]], np.uint16), 12)))
    before = dict(image.info)
    assert to_rgb(image).getpixel((0, 0)) == (255, 0, 0)
    assert image.info == before
    assert image.getpixel((0, 0)) == (15, 0, 0)


def test_an_image_whose_file_is_closed_is_read_as_it_was_decoded() -> None:
    for pixels, white in ((np.array([[0, 4095]], np.uint16), 16), (np.full((1, 2, 3), 4095, np.uint16), 15)):
        file = io.BytesIO(png(pixels, 12))
        image = Image.open(file)
        image.load()
        file.close()
        assert np.asarray(to_rgb(image)).max() == white


def test_a_tag_of_the_largest_sample_counts_where_it_is_smaller() -> None:
    for largest, white in ((1023, 1023), (65535, 65535), (0, 65535)):
        file = io.BytesIO()
        Image.fromarray(np.array([[1, 1000]], np.uint16)).save(file, "TIFF", tiffinfo={341: largest})
        file.seek(0)
        assert white_of(open_encoded(file)) == white
