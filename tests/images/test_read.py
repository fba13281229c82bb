from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from grpo_tta.errors import UserError
from grpo_tta.images.folders import find_images
from grpo_tta.images.read import LARGE, image_key, load_decoded, load_image, read_decoded, read_image, to_rgb


def test_awkward_but_good_images_become_rgb(awkward_folder: Path) -> None:
    assert load_image(awkward_folder / "a.jpg").size == (64, 48)
    assert np.asarray(load_image(awkward_folder / "b.png")).min() == 255  # fully transparent lies on white
    assert set(np.unique(np.asarray(load_image(awkward_folder / "c.png")))) == {128}  # half of 65535 is half of 255
    assert load_image(awkward_folder / "d.jpg").size == (48, 64)  # turned upright


@pytest.mark.parametrize(
    ("name", "message"), [("e.jpg", "truncated or damaged"), ("f.jpg", "not an image"), ("g.jpg", "no such file")]
)
def test_bad_files_say_what_is_wrong(awkward_folder: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_image(awkward_folder / name)


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    with pytest.raises(UserError, match="empty"):
        load_image(tmp_path / "x.png")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "HSV", "LAB"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert to_rgb(Image.new(mode, (5, 4))).mode == "RGB"


def test_nan_is_refused() -> None:
    with pytest.raises(UserError, match="NaN"):
        to_rgb(Image.fromarray(np.full((3, 3), np.nan, np.float32)))


def test_folders_are_searched_in_order(awkward_folder: Path) -> None:
    (awkward_folder / "notes.txt").write_text("no image")
    names = [path.name for path in find_images([awkward_folder, awkward_folder / "a.jpg"])]
    assert names == ["a.jpg", "b.png", "c.png", "d.jpg", "e.jpg", "f.jpg"]
    for paths, message in (([], "No images"), ([awkward_folder / "zz"], "no such file or folder")):
        with pytest.raises(UserError, match=message):
            find_images(paths)


def test_a_key_is_of_the_pixels() -> None:
    a = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    b = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 2, 3))
    assert image_key(a) == image_key(a.copy())
    assert image_key(a) != image_key(b)


def test_damaged_exif_costs_the_rotation_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(image: Image.Image) -> Image.Image:
        raise struct.error("required argument is not an integer")

    monkeypatch.setattr(ImageOps, "exif_transpose", fails)
    assert to_rgb(Image.new("L", (3, 2))).size == (3, 2)


def test_what_is_wrong_with_a_file_names_the_file(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), np.nan, np.float32)).save(tmp_path / "x.tiff")
    with pytest.raises(UserError, match=r"x\.tiff: The image holds NaN"):
        load_image(tmp_path / "x.tiff")
    assert to_rgb(Image.new("LA", (2, 2)).convert("La")).mode == "RGB"


def png_of_16_bits(pixels: np.ndarray, transparent: Sequence[int]) -> io.BytesIO:
    """Pillow writes no tRNS of 16 bits, so the chunks are made by hand."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 0 if pixels.ndim == 2 else 2, 0, 0, 0)
    chunks = {b"IHDR": header, b"tRNS": struct.pack(f">{len(transparent)}H", *transparent), b"IDAT": zlib.compress(rows)}
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*pair) for pair in chunks.items()) + chunk(b"IEND", b""))


def test_a_transparent_grey_of_16_bits_is_white() -> None:
    pixels = np.array([[1000, 1001], [30000, 0]], np.uint16)
    found = np.asarray(read_image(png_of_16_bits(pixels, [1000]), "x"))[..., 0]
    assert found.tolist() == [[255, 4], [117, 0]]


@pytest.mark.parametrize("transparent", [(1000, 2000, 3000), (65535, 0, 0), (0, 0, 0)])
def test_a_transparent_colour_of_16_bits_is_white(transparent: tuple[int, int, int]) -> None:
    pixels = np.array([[transparent, (40000, 0, 0)]], np.uint16)
    found = np.asarray(read_image(png_of_16_bits(pixels, transparent), "x"))
    assert found.tolist() == [[[255, 255, 255], [156, 0, 0]]]


def test_12_bits_in_16_are_scaled_by_what_the_file_says() -> None:
    pixels = np.array([[0, 4095], [2048, 100]], np.uint16)
    expected = [[0, 255], [128, 6]]
    tiff = io.BytesIO()
    Image.fromarray(pixels).save(tiff, "TIFF", tiffinfo={281: 4095})  # MaxSampleValue
    pgm = io.BytesIO(b"P5 2 2 4095\n" + pixels.astype(">u2").tobytes())
    for file in (tiff, pgm):
        file.seek(0)
        assert np.asarray(read_image(file, "x"))[..., 0].tolist() == expected
    silent = io.BytesIO()
    Image.fromarray(pixels).save(silent, "TIFF")
    assert np.asarray(read_image(silent, "x"))[..., 0].tolist() == [[0, 16], [8, 0]]


def test_a_thin_strip_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """A model's preprocessing would make 560,000 x 224 pixels of it."""
    Image.new("RGB", (20000, 8)).save(tmp_path / "strip.png")
    with pytest.raises(UserError, match=r"strip\.png: The image has 20000 x 8 pixels, more than 100 times"):
        load_image(tmp_path / "strip.png")
    assert to_rgb(Image.new("RGB", (800, 8))).size == (800, 8)


def test_an_image_of_the_users_own_is_not_changed() -> None:
    image = Image.new("RGB", (2, 2))
    image.info["transparency"] = (1000, 0, 0)
    to_rgb(image)
    assert image.info["transparency"] == (1000, 0, 0)


@pytest.fixture(scope="module")
def large() -> Image.Image:
    """2,400 x 1,600 pixels of soft colours."""
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8))
    return small.resize((2400, 1600), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> io.BytesIO:
    buffer = io.BytesIO()
    image.save(buffer, kind, compress_level=1, **options)
    return buffer


@pytest.mark.parametrize(
    ("least", "size"),
    [(None, (2400, 1600)), (801, (2400, 1600)), (800, (1200, 800)), (401, (1200, 800)), (200, (300, 200)), (90, (150, 100))],
)
def test_a_large_jpeg_is_reduced_while_it_is_decoded(large: Image.Image, least: int | None, size: tuple[int, int]) -> None:
    """By powers of two, at most 8, and then by whole blocks: 1,600 pixels are 17 times 90, so a half of an eighth."""
    found = read_decoded(encoded(large, "JPEG", quality=95), "x", least)
    assert found.image.size == size
    if least:
        apart = np.asarray(found.image, float) - np.asarray(large.resize(size, Image.Resampling.BOX), float)
        assert np.abs(apart).mean() < 1.5
        assert np.abs(apart).max() < 16


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "MPO"])
def test_other_large_images_are_reduced_too(large: Image.Image, kind: str) -> None:
    assert read_decoded(encoded(large, kind), "x", 400).image.size == (600, 400)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_reduced_jpeg_of_another_mode_becomes_rgb(large: Image.Image, mode: str) -> None:
    found = read_decoded(encoded(large.convert(mode), "JPEG"), "x", 400).image
    assert (found.mode, found.size) == ("RGB", (600, 400))


def test_a_reduced_photograph_stands_upright(large: Image.Image) -> None:
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    assert read_decoded(encoded(large, "JPEG", exif=exif), "x", 400).image.size == (400, 600)


def test_the_key_does_not_depend_on_the_size_that_was_asked_for(large: Image.Image, tmp_path: Path) -> None:
    """That of a small image is of all its pixels, however it is encoded; that of a large one is of its bytes."""
    assert large.width * large.height > LARGE
    for kind in ("JPEG", "PNG"):
        (tmp_path / f"x.{kind.lower()}").write_bytes(encoded(large, kind).getvalue())
    small = large.resize((600, 400))
    small.save(tmp_path / "small.png")
    keys = {
        path.name: {load_decoded(path, least).key for least in (None, 50, 200)}
        | {read_decoded(io.BytesIO(path.read_bytes()), "x", 50).key}
        for path in sorted(tmp_path.iterdir())
    }
    assert {name: len(found) for name, found in keys.items()} == {"small.png": 1, "x.jpeg": 1, "x.png": 1}
    assert keys["small.png"] == {image_key(small)}
    assert keys["x.jpeg"] != keys["x.png"]


def test_a_truncated_photograph_is_not_read_reduced(large: Image.Image) -> None:
    content = encoded(large, "JPEG").getvalue()
    with pytest.raises(UserError, match="x: truncated or damaged"):
        read_decoded(io.BytesIO(content[: len(content) // 2]), "x", 200)
