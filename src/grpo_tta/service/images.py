"""From encoded images to upright RGB, without trusting a byte of them. Runs on a decoding thread."""

from __future__ import annotations

import io
from typing import final

from PIL import Image, UnidentifiedImageError

from grpo_tta.errors import UserError
from grpo_tta.images.read import FORMATS, DecodedImage, bytes_key, decode, open_encoded, to_rgb
from grpo_tta.service.limits import Limits, RefusedError


@final
class Opened:
    """An image whose header was read and found within the limits; its pixels are not decoded yet."""

    def __init__(self, content: bytes, number: int, limits: Limits) -> None:
        """
        Raises:
            RefusedError: `not_an_image`, `too_many_pixels`, `too_elongated` or `damaged_image`.
        """
        self._content, self._number, self._limits = content, number, limits
        try:
            self._image = open_encoded(io.BytesIO(content))  # the formats that `predict` reads
        except UnidentifiedImageError:
            names = ", ".join(FORMATS)
            raise RefusedError("not_an_image", f"Image {number} is in no known format ({names}).", number) from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise self._too_many() from None
        except Exception as error:  # a damaged header makes a decoder raise anything
            raise self._damaged(error) from None
        self._check(self._image)

    @property
    def pixels(self) -> int:
        return self._image.width * self._image.height

    def decode(self, least_side: int | None) -> DecodedImage:
        """The image exactly as `predict` would read it from a file; of an animation, the first frame.

        Args:
            least_side: shorter side in pixels to which a larger image may be reduced; None keeps all pixels.

        Raises:
            RefusedError: `damaged_image`, or a limit that the header had hidden.
        """
        try:
            return decode(self._image, lambda: bytes_key(io.BytesIO(self._content)), least_side, self._checked)
        except RefusedError:
            raise
        except UserError as error:
            raise RefusedError("damaged_image", f"Image {self._number}: {error}", self._number) from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise self._too_many() from None
        except Exception as error:  # as above
            raise self._damaged(error) from None

    def _checked(self, image: Image.Image) -> Image.Image:
        self._check(image)
        return to_rgb(image)

    def _check(self, image: Image.Image) -> None:
        short, long = sorted(image.size)
        if short * long > self._limits.pixels:
            raise self._too_many()
        if long > self._limits.aspect * short:
            raise RefusedError(
                "too_elongated",
                f"Image {self._number} is {image.width} x {image.height} pixels, more than {self._limits.aspect} times as "
                "long as wide; crop it.",
                self._number,
            )

    def _too_many(self) -> RefusedError:
        return RefusedError(
            "too_many_pixels", f"Image {self._number} has more than {self._limits.pixels} pixels; shrink it.", self._number
        )

    def _damaged(self, error: Exception) -> RefusedError:
        why = f"{type(error).__name__}: {error}"[:200].encode(errors="replace").decode()
        return RefusedError("damaged_image", f"Image {self._number} is truncated or damaged ({why}).", self._number)
