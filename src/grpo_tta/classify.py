"""Answers for images of which some cannot be read: the piece of work that `predict` does, here or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from PIL import Image

from grpo_tta.classifier import GRPOTTA, Prediction
from grpo_tta.errors import sentence


def classify(
    classifier: GRPOTTA, load: Callable[[int], Image.Image], count: int, batch: int
) -> Iterator[tuple[int, Prediction | str]]:
    """An answer for each image, or a sentence that says why not; never more than a batch of images in memory.

    Args:
        classifier: the model.
        load: number of an image -> RGB image; may raise.
        count: how many images.
        batch: images adapted in one pass.
    """
    for first in range(0, count, batch):
        images: list[tuple[int, Image.Image]] = []
        for number in range(first, min(first + batch, count)):
            try:
                images.append((number, load(number)))
            except Exception as error:
                yield number, sentence(error)
        yield from _answer(classifier, images)


def _answer(classifier: GRPOTTA, images: Sequence[tuple[int, Image.Image]]) -> Iterator[tuple[int, Prediction | str]]:
    """A batch at once; where that fails, image by image, so that one does not spoil the others."""
    try:
        found = classifier.predict([image for _, image in images])
    except Exception as error:
        if len(images) == 1:
            yield images[0][0], sentence(error)
            return
        for one in images:
            yield from _answer(classifier, [one])
        return
    yield from zip([number for number, _ in images], found, strict=True)
