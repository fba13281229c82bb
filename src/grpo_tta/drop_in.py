"""`grpo_tta.pipeline`: transformers' zero-shot image classification pipeline, with adaptation inside.

An existing script changes one import. What differs is said in `pipeline`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TypedDict, final, overload

import torch
from PIL import Image

from grpo_tta.backbones.base import Backbone, check_backbone, load_backbone
from grpo_tta.classifier import GRPOTTA
from grpo_tta.errors import UserError
from grpo_tta.method.settings import GRPOSettings

TASK = "zero-shot-image-classification"
HYPOTHESIS = "This is a photo of {}."
OneImage = str | Path | Image.Image


class Score(TypedDict):
    """One label's score, from 0 to 1."""

    score: float
    label: str


@final
class ZeroShotImageClassificationPipeline:
    """Made by `pipeline`; call it with images and candidate labels."""

    def __init__(self, backbone: Backbone, settings: str | GRPOSettings, seed: int, batch_size: int) -> None:
        self._backbone, self._settings, self._seed, self._batch = backbone, settings, seed, batch_size
        self._asked: tuple[tuple[str, ...], str] | None = None
        self._classifier: GRPOTTA | None = None

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a sequence
        self, image: OneImage, candidate_labels: str | Sequence[str], *, hypothesis_template: str = HYPOTHESIS
    ) -> list[Score]: ...
    @overload
    def __call__(
        self, image: Sequence[OneImage], candidate_labels: str | Sequence[str], *, hypothesis_template: str = HYPOTHESIS
    ) -> list[list[Score]]: ...
    @overload
    def __call__(
        self, image: Generator[OneImage], candidate_labels: str | Sequence[str], *, hypothesis_template: str = HYPOTHESIS
    ) -> Iterator[list[Score]]: ...
    def __call__(
        self,
        image: OneImage | Sequence[OneImage] | Generator[OneImage],
        candidate_labels: str | Sequence[str],
        *,
        hypothesis_template: str = HYPOTHESIS,
    ) -> list[Score] | list[list[Score]] | Iterator[list[Score]]:
        """Adapts to each image alone and scores the labels.

        Args:
            image: a path or PIL image, a list of them, or a generator.
            candidate_labels: at least two, in a list or separated by commas.
            hypothesis_template: prompt with `{}` for the label.

        Returns:
            For one image a list of `{"score", "label"}`, highest score first; for a list of images a list of such lists;
            for a generator an iterator over such lists. Scores are softmax probabilities over the labels, and sigmoid scores
            for SigLIP (see `GRPOTTA.score`).

        Raises:
            UserError: unusable labels or template, or an image that cannot be read (web addresses among them).
        """
        labels = tuple(candidate_labels.split(",") if isinstance(candidate_labels, str) else candidate_labels)
        classifier = self._for(labels, hypothesis_template)
        if isinstance(image, str | Path | Image.Image):
            return _ranked(classifier.score(_local(image)))
        if isinstance(image, Generator):
            return (_ranked(classifier.score(_local(one))) for one in image)
        if not isinstance(image, list | tuple):
            raise UserError(f"Images must be a path, a PIL image or a list of them, not {type(image).__name__}.")
        return [_ranked(scores) for scores in classifier.score([_local(one) for one in image])]

    def _for(self, labels: tuple[str, ...], template: str) -> GRPOTTA:
        # A script asks about the same labels again and again; their text is encoded once.
        classifier = self._classifier
        if classifier is None or self._asked != (labels, template):
            classifier = GRPOTTA(
                self._backbone, labels, templates=template, settings=self._settings, seed=self._seed, batch=self._batch
            )
            self._asked, self._classifier = (labels, template), classifier
        return classifier


def _ranked(scores: dict[str, float]) -> list[Score]:
    return [Score(score=score, label=label) for label, score in sorted(scores.items(), key=lambda item: -item[1])]


def _local(image: OneImage) -> OneImage:
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        raise UserError(f"{image}: images are not fetched from the web; save it and give its path.")
    return image


def pipeline(
    task: str | None = None,
    model: str | Backbone = "nano-clip",
    *,
    device: int | str | torch.device = "cpu",
    batch_size: int = 1,
    settings: str | GRPOSettings = "default",
    seed: int = 0,
    download: bool = False,
) -> ZeroShotImageClassificationPipeline:
    """A drop-in for `transformers.pipeline("zero-shot-image-classification", model=…)` that adapts to every image.

    What differs from transformers: weights are fetched only with `download=True` and images never; at least two distinct
    labels are needed; a prompt that the model would cut off is refused; preprocessing is the exact one of training (the
    "pil" backend); and further arguments of transformers are refused rather than ignored.

    Args:
        task: `zero-shot-image-classification`, which is also the default.
        model: see `grpo_tta.load_backbone`, or a backbone.
        device: a torch device, or transformers' number of a GPU (-1 for the CPU).
        batch_size: images adapted in one pass; changes speed and memory, not answers.
        settings: `default`, `fast`, `paper`, or settings of your own.
        seed: of views, content-free views and sampled groups.
        download: whether weights may be fetched.

    Raises:
        UserError: another task, an unknown model, preset or device, or batch_size below 1.
    """
    if task not in (None, TASK):
        raise UserError(f"grpo-tta adapts zero-shot image classifiers, not {task!r}; leave the task out or use {TASK!r}.")
    if isinstance(device, int):
        device = "cpu" if device < 0 else f"cuda:{device}"
    backbone = load_backbone(model, device=device, download=download) if isinstance(model, str) else check_backbone(model)
    return ZeroShotImageClassificationPipeline(backbone, settings, seed, batch_size)
