"""From a request's body to encoded images and labels: multipart or JSON, within the limits on bytes and counts."""

from __future__ import annotations

import base64
import binascii
import json
import unicodedata
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import final

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from grpo_tta.backbones.prompts import check_labels
from grpo_tta.errors import UserError, counted
from grpo_tta.service.limits import Limits, RefusedError


@final
@dataclass(frozen=True)
class Asked:
    """Encoded images, and the labels where the request brought its own."""

    images: tuple[bytes, ...]
    labels: tuple[str, ...] | None


async def read_body(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """The body chunk by chunk.

    One that is too large is read on to twice the limit and thrown away before it is refused. A client that is still sending
    would otherwise meet a closed connection in place of the answer.

    Raises:
        RefusedError: `body_too_large`.
        ClientDisconnect: the client went away.
    """
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received <= limits.body_bytes:
            yield chunk
        elif received > 2 * limits.body_bytes:
            break
    if received > limits.body_bytes:
        raise RefusedError("body_too_large", f"The request is longer than {limits.body_bytes} bytes; send less at once.")


async def read_multipart(request: Request, limits: Limits) -> Asked:
    """Files `images`, and fields `labels`: one label each, or a single field with commas between the labels.

    Raises:
        RefusedError: the form cannot be read, holds other fields, or is over a limit.
        ClientDisconnect: the client went away.
    """
    parser = MultiPartParser(
        request.headers,
        read_body(request, limits),
        max_files=limits.images,
        max_fields=limits.labels,
        # of a field, which may hold all the labels; UTF-8 takes at most four bytes per character
        max_part_size=limits.labels * (4 * limits.label_characters + 4),
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise _multipart_refusal(error.message, limits) from None
    except (LookupError, UnicodeError, AttributeError, ValueError) as error:
        raise RefusedError("malformed", f"The multipart form cannot be read ({error}); check its boundary.") from None
    try:
        images: list[bytes] = []
        labels: list[str] = []
        for name, value in form.multi_items():
            if name == "images" and isinstance(value, UploadFile):
                _check_bytes(value.size or 0, len(images), limits)
                images.append(await value.read())
            elif name == "labels" and isinstance(value, str):
                labels.append(value)
            elif name in ("images", "labels"):
                kind = "files" if name == "images" else "plain text fields"
                raise RefusedError("invalid_request", f"The parts named {name} must be {kind}.")
            else:
                raise RefusedError("invalid_request", f"Unknown field {name[:80]!r}; a form has images and, if wanted, labels.")
    finally:
        await form.close()
    if len(labels) == 1:
        labels = labels[0].split(",")
    return Asked(_check_images(images, limits), _check_labels(labels, limits) if labels else None)


def _multipart_refusal(message: str, limits: Limits) -> RefusedError:
    if message.startswith("Too many files"):
        return _too_many_images(limits)
    if message.startswith("Too many fields"):
        return _too_many_labels(limits)
    if message.startswith("Part exceeded"):
        return RefusedError("unusable_labels", f"A label is longer than {limits.label_characters} characters; shorten it.")
    return RefusedError("malformed", f"The multipart form cannot be read ({message.rstrip('.')}); check how it was made.")


def parse_json(body: bytes, limits: Limits) -> Asked:
    """`{"images": BASE64 or [BASE64, ...], "labels": [...]}`; a `data:` address counts as its base64.

    Raises:
        RefusedError: the document cannot be read, holds other fields or types, or is over a limit.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError("malformed", f"The body is not JSON ({str(error)[:200]}).") from None
    if not isinstance(asked, dict):
        raise RefusedError("invalid_request", "The body must be an object with images and, if wanted, labels.")
    for name in asked:
        if name not in ("images", "labels"):
            raise RefusedError("invalid_request", f"Unknown field {_shown(name)}; an object has images and, if wanted, labels.")
    encoded = asked.get("images", [])
    encoded = [encoded] if isinstance(encoded, str) else encoded
    if not isinstance(encoded, list) or not all(isinstance(text, str) for text in encoded):
        raise RefusedError("invalid_request", "images must be a base64 string or a list of them.")
    labels = asked.get("labels")
    if labels is not None and (not isinstance(labels, list) or not all(isinstance(label, str) for label in labels)):
        raise RefusedError("invalid_request", "labels must be a list of strings.")
    _check_count(len(encoded), limits)
    images = []
    for number, text in enumerate(encoded):
        start = text.find(",") + 1 if text.startswith("data:") else 0
        content = "".join(text[start:].split())  # tools wrap lines after 76 characters
        _check_bytes(len(content) * 3 // 4, number, limits)
        try:
            images.append(base64.b64decode(content, validate=True))
        except (binascii.Error, ValueError) as error:
            raise RefusedError("malformed", f"Image {number} is not base64 ({error}).", number) from None
    return Asked(_check_images(images, limits), None if labels is None else _check_labels(labels, limits))


def _shown(text: str) -> str:
    return repr(text[:80].encode(errors="replace").decode())


def _too_many_images(limits: Limits) -> RefusedError:
    return RefusedError("too_many_images", f"More than {counted(limits.images, 'image')} in one request; send them in several.")


def _too_many_labels(limits: Limits) -> RefusedError:
    return RefusedError("too_many_labels", f"More than {counted(limits.labels, 'label')}; leave out the unlikely ones.")


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.images:
        raise _too_many_images(limits)
    if not count:
        raise RefusedError("no_images", "The request holds no image; send at least one under the name images.")


def _check_bytes(size: int, number: int, limits: Limits) -> None:
    if size > limits.image_bytes:
        raise RefusedError("image_too_large", f"Image {number} is longer than {limits.image_bytes} bytes; shrink it.", number)


def _check_images(images: Sequence[bytes], limits: Limits) -> tuple[bytes, ...]:
    _check_count(len(images), limits)
    for number, image in enumerate(images):
        _check_bytes(len(image), number, limits)
        if not image:
            raise RefusedError("not_an_image", f"Image {number} is empty.", number)
    return tuple(images)


def _check_labels(labels: Sequence[str], limits: Limits) -> tuple[str, ...]:
    if len(labels) > limits.labels:
        raise _too_many_labels(limits)
    for label in labels:
        if len(label) > limits.label_characters:
            raise RefusedError("unusable_labels", f"A label is longer than {limits.label_characters} characters; shorten it.")
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in label):
            raise RefusedError("unusable_labels", f"Label {_shown(label)} holds control characters; remove them.")
    try:
        return check_labels(labels)
    except UserError as error:
        raise RefusedError("unusable_labels", str(error)) from None
