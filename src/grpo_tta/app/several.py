"""Answers to several images, each by itself. No Gradio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final, get_args

from grpo_tta.app.knowledge import is_photograph
from grpo_tta.app.uploads import decode_upload
from grpo_tta.classifier import GRPOTTA
from grpo_tta.errors import UserError

MOST_IMAGES = 100
"""Of several that are dropped at once."""
Order = Literal["as listed", "by name"]
ORDERS: tuple[Order, ...] = get_args(Order)


@final
@dataclass(frozen=True)
class Answered:
    """One of several images: both answers and the adapted one's percent, or an error in their place."""

    file: str
    before: str = ""
    after: str = ""
    percent: float = 0.0
    photograph: bool | None = None
    error: str = ""


def check_images(paths: Sequence[Path]) -> None:
    """
    Raises:
        UserError: no images, or more than the page takes.
    """
    if not paths:
        raise UserError("There are no images yet; drop some into the field above.")
    if len(paths) > MOST_IMAGES:
        raise UserError(f"{len(paths)} images are more than the page takes; use at most {MOST_IMAGES}, or predict.")


def in_order(paths: Sequence[Path], order: Order) -> list[Path]:
    """The images in the order in which they are taken. By name is how `predict` takes the images of a folder."""
    return list(paths) if order == "as listed" else sorted(paths, key=lambda path: path.name)


def answer_each(classifier: GRPOTTA, paths: Sequence[Path]) -> Iterator[tuple[Answered, ...]]:
    """The answers so far, again after each image."""
    rows: tuple[Answered, ...] = ()
    for path in paths:
        try:
            decoded = decode_upload(path, classifier.least_side)
            said = classifier.predict(decoded)
            seen = is_photograph(decoded.image)
            row = Answered(path.name, said.label_before, said.label, 100 * said.probability, seen)
        except UserError as error:
            row = Answered(path.name, error=str(error))
        rows = (*rows, row)
        yield rows
