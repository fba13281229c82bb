"""One classifier for each set of labels that is asked for; the model itself is there once."""

from __future__ import annotations

from functools import lru_cache
from typing import final

from grpo_tta.classifier import GRPOTTA, Prediction
from grpo_tta.images.read import DecodedImage

Labels = tuple[str, ...] | None


@final
class Classifiers:
    """The service's own classifier, and the most recently used ones for labels that requests brought.

    Used by one thread at a time.
    """

    def __init__(self, own: GRPOTTA, *, kept: int = 16) -> None:
        """
        Args:
            own: answers requests without labels. The others share everything of it but the labels.
            kept: classifiers remembered for labels of requests.
        """
        self._own = own
        self._recent = lru_cache(maxsize=kept)(self._make)

    def predict(self, labels: Labels, images: list[DecodedImage]) -> list[Prediction]:
        """
        Raises:
            UserError: the labels do not fit the model or the settings.
        """
        return self._get(labels).predict(images)

    def _get(self, labels: Labels) -> GRPOTTA:
        if labels is None or labels == self._own.labels:
            return self._own
        return self._recent(labels)

    def _make(self, labels: tuple[str, ...]) -> GRPOTTA:
        return self._own.with_labels(labels, cache=False)  # strangers' labels must not fill the disk
