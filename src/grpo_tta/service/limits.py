"""What one request and all requests together may take, and the refusals that say so."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, final

from grpo_tta.errors import UserError

Code = Literal[
    "malformed",
    "upload_too_slow",
    "body_too_large",
    "image_too_large",
    "too_many_images",
    "unsupported_media_type",
    "invalid_request",
    "no_images",
    "not_an_image",
    "damaged_image",
    "too_many_pixels",
    "too_elongated",
    "too_many_labels",
    "unusable_labels",
    "queue_full",
    "too_slow",
    "shutting_down",
    "not_found",
    "method_not_allowed",
    "internal",
]
STATUS: dict[Code, int] = {
    "malformed": 400,
    "not_found": 404,
    "method_not_allowed": 405,
    "upload_too_slow": 408,
    "body_too_large": 413,
    "image_too_large": 413,
    "unsupported_media_type": 415,
    "invalid_request": 422,
    "no_images": 422,
    "not_an_image": 422,
    "damaged_image": 422,
    "too_many_pixels": 422,
    "too_elongated": 422,
    "too_many_images": 422,
    "too_many_labels": 422,
    "unusable_labels": 422,
    "internal": 500,
    "queue_full": 503,
    "too_slow": 503,
    "shutting_down": 503,
}


@final
class RefusedError(Exception):
    """A request that is not answered: a code for programs, a sentence for people, the image (from 0) that is to blame."""

    def __init__(self, code: Code, message: str, image: int | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.image = code, message, image

    @property
    def status(self) -> int:
        return STATUS[self.code]


@final
@dataclass(frozen=True)
class Limits:
    """Each has a refusal of its own (`Code`).

    Attributes:
        body_bytes: of one request.
        image_bytes: of one encoded image.
        pixels: of one decoded image.
        aspect: longer side over shorter side; models resize by the shorter side, so a thin strip would become huge.
        images: of one request.
        labels: of one request that brings its own.
        label_characters: of one label.
        queue: images accepted and not answered yet, those in work included.
        queue_pixels: the same in pixels; bounds the memory that decoded images take (3 bytes per pixel).
        queue_bytes: of all requests that are being read or answered.
        seconds: from a request's first byte to its answer.
    """

    body_bytes: int = 32 * 2**20
    image_bytes: int = 8 * 2**20
    pixels: int = 2**24
    aspect: int = 32
    images: int = 16
    labels: int = 100
    label_characters: int = 200
    queue: int = 256
    queue_pixels: int = 2**29
    queue_bytes: int = 2**30
    seconds: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise UserError(f"The limit {field.name} must be positive, not {getattr(self, field.name)}.")
        if self.images > self.queue:
            raise UserError(f"A request of {self.images} images never fits into a queue of {self.queue}; raise the queue.")
        if self.images * self.pixels > self.queue_pixels:
            need = self.images * self.pixels
            raise UserError(f"The largest request has {need} pixels and never fits; raise queue_pixels or lower pixels.")
        if self.body_bytes > self.queue_bytes:
            raise UserError(f"The largest request has {self.body_bytes} bytes and never fits; raise queue_bytes.")
