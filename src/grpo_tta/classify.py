"""Answers for pictures of which some cannot be read: the piece of work that `predict` does, here or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from PIL import Image

from grpo_tta.classifier import GRPOTTA, Prediction
from grpo_tta.errors import sentence


def classify(
    classifier: GRPOTTA, load: Callable[[int], Image.Image], count: int, batch: int
) -> Iterator[tuple[int, Prediction | str]]:
    """An answer for each picture, or a sentence that says why not; never more than a batch of pictures in memory.

    Args:
        classifier: the model.
        load: number of a picture -> RGB picture; may raise.
        count: how many pictures.
        batch: pictures adapted in one pass.
    """
    for first in range(0, count, batch):
        pictures: list[tuple[int, Image.Image]] = []
        for number in range(first, min(first + batch, count)):
            try:
                pictures.append((number, load(number)))
            except Exception as error:
                yield number, sentence(error)
        yield from _answer(classifier, pictures)


def _answer(classifier: GRPOTTA, pictures: Sequence[tuple[int, Image.Image]]) -> Iterator[tuple[int, Prediction | str]]:
    """A batch at once; where that fails, picture by picture, so that one does not spoil the others."""
    try:
        found = classifier.predict([picture for _, picture in pictures])
    except Exception as error:
        if len(pictures) == 1:
            yield pictures[0][0], sentence(error)
            return
        for one in pictures:
            yield from _answer(classifier, [one])
        return
    yield from zip([number for number, _ in pictures], found, strict=True)
