"""The public object: `GRPOTTA(model, labels)` with `.predict`, `.score` and `.explain`."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final, overload

import numpy as np
import torch
from PIL import Image

from grpo_tta.backbones.base import Backbone, Dtype, check_backbone, load_backbone
from grpo_tta.backbones.prompts import DEFAULT_TEMPLATE, make_prompts
from grpo_tta.engine.encode import encode_for
from grpo_tta.engine.interface import Adaptation, EncodedViews
from grpo_tta.engine.policy import Policy
from grpo_tta.engine.retry import batch_or_each
from grpo_tta.errors import UserError, sentence
from grpo_tta.images.read import image_key, load_image, to_rgb
from grpo_tta.method.grpo import grpo_method
from grpo_tta.method.settings import PRESETS, GRPOSettings
from grpo_tta.method.types import Episode, RewardFunction, ScoredGroup

ImageLike = Image.Image | np.ndarray | str | Path


@final
@dataclass(frozen=True)
class Prediction:
    """What the adapted model says about one image.

    Attributes:
        label: the most probable label.
        probability: of that label, after adaptation.
        probabilities: label -> probability after adaptation, in the order of the labels.
        label_before, probabilities_before: the same for zero-shot CLIP.
        forwards, backwards: passes of one view through the visual encoder that the answer cost.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    label_before: str
    probabilities_before: dict[str, float]
    forwards: float
    backwards: float


@final
@dataclass(frozen=True)
class Candidate:
    """One class of a group: reward in nats, group-relative advantage, pi_theta(label | view) before each step."""

    label: str
    reward: float
    advantage: float
    probabilities: tuple[float, ...]


@final
@dataclass(frozen=True)
class ViewTrace:
    """One selected view: its number (0 is the untouched image) and its group of candidates."""

    view: int
    candidates: tuple[Candidate, ...]


@final
@dataclass(frozen=True)
class StepTrace:
    """One policy step: mean objective, KL(pi_theta || pi_0) and clipped share before it, and its raw gradient's norm."""

    objective: float
    kl: float
    clipped: float
    gradient_norm: float


@final
@dataclass(frozen=True)
class Explanation:
    """How a prediction came about.

    Attributes:
        prediction: the answer.
        views: the selected views with candidates, rewards, advantages and probabilities step by step.
        steps: the policy steps.
        updated: false where all advantages were zero and no step was taken.
        content_free: label -> the content-free prior that was taken from the answer: what the frozen model sees in the
            content-free views. Where these favour the same class as the views nothing is taken, and all labels stand alike.
            Empty without content-free views.
    """

    prediction: Prediction
    views: tuple[ViewTrace, ...]
    steps: tuple[StepTrace, ...]
    updated: bool
    content_free: dict[str, float]


@final
class GRPOTTA:
    """Adapts a CLIP-like model to one image at a time, predicts, and forgets.

    The model's weights are never modified, and an answer depends on the image, the labels, the settings and the seed
    alone; not on what was asked before or, up to rounding, on its neighbours in a list. May be shared by threads.
    """

    def __init__(
        self,
        model: str | Backbone,
        labels: Sequence[str],
        *,
        templates: str | Sequence[str] = DEFAULT_TEMPLATE,
        settings: str | GRPOSettings = "default",
        seed: int = 0,
        device: str | torch.device = "cpu",
        batch: int = 16,
        download: bool = False,
        dtype: Dtype = "float32",
        cache: bool = True,
        reward: RewardFunction | None = None,
    ) -> None:
        """
        Args:
            model: a model's name (see `grpo_tta.load_backbone`) or a backbone, your own among them.
            labels: at least two distinct class names.
            templates: one or more prompts with `{}` where the label goes; several are averaged.
            settings: `default`, `fast`, `paper`, or settings of your own.
            seed: of views, copies and sampled groups.
            device: where a model named by a string runs.
            batch: images adapted in one pass; changes speed and memory, not answers.
            download: whether weights may be fetched; never done unasked.
            dtype: of the frozen visual encoder of a model named by a string (see `grpo_tta.load_backbone`).
            cache: whether text features may be kept on disk.
            reward: your own, in place of the settings': a function (reference, group) -> `[B, M, K]` (see `grpo_tta.Reward`).

        Raises:
            UserError: unknown model or preset, an incomplete backbone, missing weights, unusable labels or templates,
                settings that do not fit, or batch < 1.
        """
        if isinstance(settings, str):
            if settings not in PRESETS:
                raise UserError(f"Unknown preset {settings!r}; choose {' or '.join(PRESETS)}.")
            settings = PRESETS[settings]
        if reward is not None:
            settings = replace(settings, reward=reward)
        if batch < 1:
            raise UserError(f"A batch of {batch} images cannot be adapted; set batch to at least 1.")
        templates = (templates,) if isinstance(templates, str) else tuple(templates)
        if isinstance(model, str):
            self.backbone = load_backbone(model, device=device, download=download, dtype=dtype)
        else:
            self.backbone = check_backbone(model)
        with _plain(self.backbone):
            self.policy = Policy(self.backbone, make_prompts(self.backbone, labels, templates, cache=cache))
        self.settings, self.seed, self._batch = settings, seed, batch
        self._method = grpo_method(settings)
        self._method.cached_blocks(self.backbone)  # refuses what the model cannot tune

    @property
    def labels(self) -> tuple[str, ...]:
        return self.policy.prompts.labels

    @overload
    def predict(self, images: ImageLike) -> Prediction: ...  # type: ignore[overload-overlap]  # a str is a sequence
    @overload
    def predict(self, images: Iterable[ImageLike]) -> list[Prediction]: ...
    def predict(self, images: ImageLike | Iterable[ImageLike]) -> Prediction | list[Prediction]:
        """Adapts to each image alone and classifies it.

        Args:
            images: one image, or any number of them (a list, a generator): PIL image, uint8 array `[H, W, 3]` or `[H, W]`,
                or a path.

        Raises:
            UserError: an image is missing, damaged or of an unusable type (named in the message).
        """
        if isinstance(images, Image.Image | np.ndarray | str | Path):
            return self._answers(self._adapt([_read(images)])[1])[0]
        return [answer for _, adaptation in self._batches(images) for answer in self._answers(adaptation)]

    @overload
    def score(self, images: ImageLike) -> dict[str, float]: ...  # type: ignore[overload-overlap]  # a str is a sequence
    @overload
    def score(self, images: Iterable[ImageLike]) -> list[dict[str, float]]: ...
    def score(self, images: ImageLike | Iterable[ImageLike]) -> dict[str, float] | list[dict[str, float]]:
        """Label -> score from 0 to 1 after adaptation, the way the model itself scores.

        For a model of softmax the probabilities of `predict`. For one of sigmoid (SigLIP) sigmoid(z), where z are the adapted
        log-probabilities plus a constant: log sum exp of the frozen model's own s * cos + b on the untouched image. So
        adaptation moves evidence between the labels and leaves its total alone, and without any adaptation the scores are
        the model's own.

        Raises:
            UserError: as `predict`.
        """
        if isinstance(images, Image.Image | np.ndarray | str | Path):
            return self._scores(*self._adapt([_read(images)]))[0]
        return [scores for encoded, adaptation in self._batches(images) for scores in self._scores(encoded, adaptation)]

    def explain(self, image: ImageLike) -> Explanation:
        """The answer for one image, with candidates, rewards, advantages and probabilities at every step.

        Raises:
            UserError: the image is missing, damaged or of an unusable type.
        """
        _, adaptation = self._adapt([_read(image)])
        episode = adaptation.trace
        assert isinstance(episode, Episode), "GRPO-TTA always keeps its episode"
        scored, reference = episode.scored, episode.scored.reference
        views = [
            ViewTrace(view, self._candidates(scored, m, episode))
            for m, view in enumerate(reference.views[0].tolist())
            if reference.view_mask[0, m]
        ]
        steps = tuple(
            StepTrace(float(s.objective[0]), float(s.kl[0]), float(s.clipped[0]), float(s.gradient_norm[0]))
            for s in episode.steps
        )
        content_free = {}
        if reference.content_free is not None:
            content_free = dict(zip(self.labels, reference.content_free_prior()[0].exp().tolist(), strict=True))
        return Explanation(self._answers(adaptation)[0], tuple(views), steps, bool(scored.update_mask[0]), content_free)

    def _candidates(self, scored: ScoredGroup, m: int, episode: Episode) -> tuple[Candidate, ...]:
        group = scored.group
        return tuple(
            Candidate(
                self.labels[int(group.classes[0, m, k])],
                float(scored.rewards[0, m, k]),
                float(scored.advantages[0, m, k]),
                tuple(float(step.log_probs[0, m, k].exp()) for step in episode.steps),
            )
            for k in range(group.classes.shape[-1])
            if group.mask[0, m, k]
        )

    def _batches(self, images: Iterable[ImageLike]) -> Iterator[tuple[EncodedViews, Adaptation]]:
        """Batch after batch, so that no more images than one batch's are ever held decoded."""
        waiting = iter(images)
        while some := [_read(image) for image in itertools.islice(waiting, self._batch)]:
            yield self._adapt(some)

    def _adapt(self, images: Sequence[Image.Image]) -> tuple[EncodedViews, Adaptation]:
        keys = [image_key(image) for image in images]
        with _plain(self.backbone):
            batch = encode_for([self._method], self.policy, images, keys, self.settings.views, self.seed)
            return batch.encoded, self._method(self.policy, batch, {})[0]

    def _scores(self, encoded: EncodedViews, adaptation: Adaptation) -> list[dict[str, float]]:
        scores = adaptation.after.exp()  # [B, C]
        if self.backbone.logit_bias is not None:
            cosine = encoded.features[:, 0] @ self.policy.text_features.T  # [B, C]
            evidence = (self.backbone.logit_scale * cosine + self.backbone.logit_bias).logsumexp(-1, keepdim=True)
            scores = (adaptation.after + evidence).sigmoid()
        return [dict(zip(self.labels, row, strict=True)) for row in scores.tolist()]

    def _answers(self, adaptation: Adaptation) -> list[Prediction]:
        found = []
        of_images = zip(adaptation.before.exp().tolist(), adaptation.after.exp().tolist(), strict=True)
        for number, (before, after) in enumerate(of_images):
            best, best_before = int(np.argmax(after)), int(np.argmax(before))
            found.append(
                Prediction(
                    self.labels[best],
                    after[best],
                    dict(zip(self.labels, after, strict=True)),
                    self.labels[best_before],
                    dict(zip(self.labels, before, strict=True)),
                    *adaptation.cost.of(number),
                )
            )
        return found


@contextlib.contextmanager
def _plain(backbone: Backbone) -> Iterator[None]:
    """A step needs gradients, and all of it its own precision, whatever the caller's code runs under."""
    with torch.inference_mode(False), torch.autocast(torch.device(backbone.device).type, enabled=False):
        yield


def _read(image: ImageLike) -> Image.Image:
    if isinstance(image, str | Path):
        return load_image(image)
    if isinstance(image, np.ndarray):
        grey = image.ndim == 2
        if image.dtype != np.uint8 or not (grey or (image.ndim == 3 and image.shape[2] in (3, 4))):
            raise UserError(f"An array image must be uint8 [H, W], [H, W, 3] or [H, W, 4], not {image.dtype} {image.shape}.")
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise UserError(f"An image must be a path, a PIL image or a uint8 array, not {type(image).__name__}.")
    try:
        image.load()
    except MemoryError:  # the machine's fault, not the image's
        raise
    except Exception as error:  # opened by the caller, and read only now
        raise UserError(f"The image cannot be read: truncated or damaged ({error}).") from None
    return to_rgb(image)


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
        loaded: list[tuple[int, Image.Image]] = []
        for number in range(first, min(first + batch, count)):
            try:
                loaded.append((number, load(number)))
            except Exception as error:
                yield number, sentence(error)
        for some, found in batch_or_each(loaded, lambda some: classifier.predict([image for _, image in some])):
            if isinstance(found, Exception):
                yield some[0][0], sentence(found)
            else:
                yield from zip([number for number, _ in some], found, strict=True)
