from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from grpo_tta.errors import UserError
from grpo_tta.images.read import find_images, image_key, load_image, to_rgb


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
