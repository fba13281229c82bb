"""Everything that may be handed over as an image."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from grpo_tta.errors import UserError
from grpo_tta.images.inputs import is_one_image, to_image


def test_every_kind_is_the_same_image(image: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    image.save(path)
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    content = path.read_bytes()
    given: list = [image, array, path, str(path), content, bytearray(content), memoryview(content), io.BytesIO(content)]
    given += [tensor, tensor.float() / 255, tensor.double() / 255, (tensor.float() / 255).requires_grad_(), tensor / 255 + 1e-5]
    for one in given:
        assert is_one_image(one)
        assert np.array_equal(np.asarray(to_image(one)), array), type(one)
    with path.open("rb") as file:
        assert is_one_image(file)
        for _ in range(2):  # read from its beginning, and left open
            assert np.array_equal(np.asarray(to_image(file)), array)
        assert not file.closed


def test_many_are_not_one(image: Image.Image) -> None:
    for many in ([image], (image,), iter([image]), torch.zeros(2, 3, 4, 4)):
        assert not is_one_image(many)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(3, 4), r"must be \[3, H, W\], not \[3, 4\]"),
        (torch.zeros(4, 4, 3), r"must be \[3, H, W\], not \[4, 4, 3\]"),
        (torch.zeros(3, 0, 4), "has no pixels"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "uint8, or float in .* not int64"),
        (torch.full((3, 4, 4), torch.nan), "NaN"),
        (torch.full((3, 4, 4), -1.0), r"not in \[-1, -1\]; divide by 255, or leave the normalisation"),
        (torch.full((3, 4, 4), 255.0), r"not in \[255, 255\]"),
        (torch.zeros(3, 1, 200), "more than 100 times as long"),
        (b"", "no bytes"),
        (b"abc", "in bytes: not an image in a known format"),
        (io.BytesIO(b"abc"), "in the open file: not an image"),
        (io.StringIO("abc"), "opened as text; .* 'rb'"),
        (np.zeros((4, 4, 3)), "must be uint8"),
        (7, "bytes or a binary file, not int"),
        (None, "not NoneType"),
    ],
)
def test_what_is_no_image_is_explained(bad: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        to_image(bad)  # type: ignore[arg-type]


def test_a_closed_file_and_a_named_one(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"abc")
    with (tmp_path / "x.png").open("rb") as file, pytest.raises(UserError, match=r"in the file .*x\.png: not an image"):
        to_image(file)
    with pytest.raises(UserError, match="the file is closed"):
        to_image(file)
