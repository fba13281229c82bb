"""`grpo_tta.pipeline`: transformers' zero-shot image classification pipeline, with adaptation inside.

An existing script changes one import. What differs is said in `pipeline`.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, cast, final, overload

import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from grpo_tta.backbones.base import Backbone, Dtype, check_backbone, check_dtype, load_backbone
from grpo_tta.classifier import GRPOTTA
from grpo_tta.errors import UserError
from grpo_tta.images.read import read_image, shown_path
from grpo_tta.images.remote import fetch, is_web
from grpo_tta.method.settings import GRPOSettings

TASK = "zero-shot-image-classification"
HYPOTHESIS = "This is a photo of {}."
OneImage = str | Path | Image.Image
ManyImages = Generator[OneImage] | Dataset[OneImage]
_HARMLESS = {"padding", "truncation", "max_length", "return_tensors"}
"""Of a tokenizer's arguments: they cannot change how a prompt is read that fits the model, and others are refused anyhow."""


class Score(TypedDict):
    """One label's score, from 0 to 1."""

    score: float
    label: str


@final
class ZeroShotImageClassificationPipeline:
    """Made by `pipeline`; call it with images and candidate labels."""

    def __init__(self, backbone: Backbone, settings: str | GRPOSettings, seed: int, batch_size: int) -> None:
        self._backbone, self._settings, self._seed, self._batch = backbone, settings, seed, batch_size
        self._classifier: GRPOTTA | None = None

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a sequence
        self,
        image: OneImage,
        candidate_labels: str | Sequence[str],
        *,
        hypothesis_template: str = HYPOTHESIS,
        batch_size: int | None = None,
        num_workers: int | None = None,
        timeout: float | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
    ) -> list[Score]: ...
    @overload
    def __call__(
        self,
        image: Sequence[OneImage],
        candidate_labels: str | Sequence[str],
        *,
        hypothesis_template: str = HYPOTHESIS,
        batch_size: int | None = None,
        num_workers: int | None = None,
        timeout: float | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
    ) -> list[list[Score]]: ...
    @overload
    def __call__(
        self,
        image: ManyImages,
        candidate_labels: str | Sequence[str],
        *,
        hypothesis_template: str = HYPOTHESIS,
        batch_size: int | None = None,
        num_workers: int | None = None,
        timeout: float | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
    ) -> Iterator[list[Score]]: ...
    def __call__(
        self,
        image: OneImage | Sequence[OneImage] | ManyImages,
        candidate_labels: str | Sequence[str],
        *,
        hypothesis_template: str = HYPOTHESIS,
        batch_size: int | None = None,
        num_workers: int | None = None,
        timeout: float | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
    ) -> list[Score] | list[list[Score]] | Iterator[list[Score]]:
        """Adapts to each image alone and scores the labels.

        Args:
            image: a PIL image, a path, a web address (`http://` or `https://`, fetched) or an image in base64 (`data:image/…`
                or bare); a list of them; or a generator or torch `Dataset` of them (transformers' `KeyDataset` is one).
            candidate_labels: at least two, in a list or separated by commas.
            hypothesis_template: prompt with `{}` for the label.
            batch_size: images adapted in one pass; the pipeline's own by default.
            num_workers: taken for scripts that give it; images are read in this process.
            timeout: seconds to wait for an image from the web. None waits for ever.
            tokenizer_kwargs: padding, truncation, max_length and return_tensors are taken, and change nothing. A prompt that
                fits the model is read whole, and a longer one is refused.

        Returns:
            For one image a list of `{"score", "label"}`, highest score first; for a list of images a list of such lists;
            for a generator or data set an iterator over such lists, which reads a batch of images at a time. Scores are
            softmax probabilities over the labels, and sigmoid scores for SigLIP (see `GRPOTTA.score`).

        Raises:
            UserError: unusable labels, template, batch size or tokenizer arguments, or an image that cannot be fetched or read.
        """
        if unknown := sorted(set(tokenizer_kwargs or ()) - _HARMLESS):
            raise UserError(
                f"The tokenizer's argument {unknown[0]} cannot be changed here; use {', '.join(sorted(_HARMLESS))}."
            )
        labels = tuple(candidate_labels.split(",") if isinstance(candidate_labels, str) else candidate_labels)
        classifier = self._for(labels, hypothesis_template)
        open_one = partial(_open, timeout=timeout)
        batch = self._batch if batch_size is None else batch_size
        if isinstance(image, str | Path | Image.Image):
            return _ranked(classifier.score(open_one(image)))
        if isinstance(image, Generator | Dataset):
            return map(_ranked, classifier.score_iter(map(open_one, _items(image)), batch=batch))
        if not isinstance(image, list | tuple):
            raise UserError(
                f"Images must be a path, a PIL image, a list, generator or Dataset of them, not {type(image).__name__}."
            )
        return list(map(_ranked, classifier.score_iter(map(open_one, image), batch=batch)))

    def _for(self, labels: tuple[str, ...], template: str) -> GRPOTTA:
        # A script asks about the same labels again and again; their text is read once.
        if self._classifier is None:
            self._classifier = GRPOTTA(
                self._backbone, labels, templates=template, settings=self._settings, seed=self._seed, batch=self._batch
            )
        else:
            self._classifier = self._classifier.with_labels(labels, templates=template)
        return self._classifier


def _ranked(scores: dict[str, float]) -> list[Score]:
    return [Score(score=score, label=label) for label, score in sorted(scores.items(), key=lambda item: -item[1])]


def _items(images: ManyImages) -> Iterable[OneImage]:
    """One after another. A torch `Dataset` that is indexed says how many it holds."""
    if isinstance(images, Generator | IterableDataset):
        return images
    indexed = cast(Sequence[OneImage], images)
    return (indexed[number] for number in range(len(indexed)))


def _open(image: OneImage, *, timeout: float | None) -> OneImage:
    """As transformers reads a string: a web address is fetched; what is no file may be the image itself in base64."""
    if not isinstance(image, str):
        return image
    if is_web(image):
        return read_image(io.BytesIO(fetch(image, timeout)), image)
    if _is_file(image):
        return image
    in_data = image.startswith("data:image/")
    try:
        content = base64.b64decode("".join(image.partition(",")[2 if in_data else 0].split()), validate=True)
        return read_image(io.BytesIO(content), "The image in base64")
    except (binascii.Error, ValueError) as error:  # a UserError among them
        if in_data:
            raise UserError(f"{shown_path(Path(image))}: not an image in base64 ({error}).") from None
    return image  # a path to nothing, which the classifier explains


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # too long for a name, as an image in base64 is
        return False


def _dtype(dtype: str | torch.dtype) -> Dtype:
    name = str(dtype).removeprefix("torch.")
    return check_dtype("float32" if name == "auto" else name)


def pipeline(
    task: str | None = None,
    model: str | Backbone = "nano-clip",
    *,
    device: int | str | torch.device | None = None,
    batch_size: int = 1,
    dtype: str | torch.dtype = "auto",
    settings: str | GRPOSettings = "default",
    seed: int = 0,
    download: bool = False,
) -> ZeroShotImageClassificationPipeline:
    """A drop-in for `transformers.pipeline("zero-shot-image-classification", model=…)` that adapts to every image.

    What differs from transformers: weights are fetched only with `download=True`, and images only where the caller gives a web
    address; at least two distinct labels are needed; a prompt that the model would cut off is refused; preprocessing is the
    exact one of training (the "pil" backend); and further arguments of transformers are refused rather than ignored.

    Args:
        task: `zero-shot-image-classification`, which is also the default.
        model: see `grpo_tta.load_backbone`, or a backbone.
        device: a torch device, or transformers' number of a GPU (-1 for the CPU). None takes a GPU where there is one.
        batch_size: images adapted in one pass; changes speed and memory, not answers. A call may bring its own.
        dtype: of the frozen visual encoder: float32, bfloat16, or `auto`, which is float32.
        settings: `default`, `fast`, `paper`, or settings of your own.
        seed: of views, content-free views and sampled groups.
        download: whether weights may be fetched.

    Raises:
        UserError: another task, an unknown model, preset, dtype or device, or batch_size below 1.
    """
    if task not in (None, TASK):
        raise UserError(f"grpo-tta adapts zero-shot image classifiers, not {task!r}; leave the task out or use {TASK!r}.")
    if device is None:
        device = "auto"
    elif isinstance(device, int):
        device = "cpu" if device < 0 else f"cuda:{device}"
    if isinstance(model, str):
        backbone = load_backbone(model, device=device, download=download, dtype=_dtype(dtype))
    else:
        backbone = check_backbone(model)
    return ZeroShotImageClassificationPipeline(backbone, settings, seed, batch_size)
