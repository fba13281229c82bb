"""The public object `GRPOTTA(model, labels)`: `.predict`, `.score`, `.explain`, `.embed`, `.stream`, and `.adapt_batch`."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, final, get_args, overload

import numpy as np
import torch
from torch import Tensor

from grpo_tta.backbones.base import Backbone, Dtype, check_backbone, load_backbone
from grpo_tta.backbones.prompts import DEFAULT_TEMPLATE, ClassPrompts, check_labels, make_prompts
from grpo_tta.config.serialise import short_hash
from grpo_tta.engine.ahead import check_workers
from grpo_tta.engine.encode import encode_prepared, encode_views, prepare_image, views_for
from grpo_tta.engine.in_flight import choose_batch
from grpo_tta.engine.interface import Adaptation, EncodedViews, ImageBatch, Method, State
from grpo_tta.engine.policy import Policy
from grpo_tta.engine.retry import OnError, answer_each
from grpo_tta.engine.stream import Stream
from grpo_tta.errors import UserError, sentence
from grpo_tta.images.inputs import ImageLike, decode_image, is_one_image, is_stored
from grpo_tta.images.views import ImageViews, ViewSettings
from grpo_tta.method.grpo import adapted_features, answer, features_of_view0, grpo_method, update
from grpo_tta.method.online import stream_method
from grpo_tta.method.online_settings import ONLINE, StreamSettings
from grpo_tta.method.settings import PRESETS, GRPOSettings
from grpo_tta.method.types import Episode, RewardFunction, ScoredGroup

R = TypeVar("R")
T = TypeVar("T")


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
        embedding: of a classifier made by `GRPOTTA.with_embeddings`, what `GRPOTTA.embed` gives: `[D]` float32 on the CPU.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    label_before: str
    probabilities_before: dict[str, float]
    forwards: float
    backwards: float
    embedding: Tensor | None = field(default=None, repr=False, compare=False)

    def plain(self) -> dict[str, Any]:
        """All but the embedding, by name, as JSON takes it."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "embedding"}


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
    alone; not on what was asked before or, up to rounding, on its neighbours in a list. May be shared by threads. `stream` is
    the exception: its answers depend on the images before, which its iterator remembers and this object does not.

    Attributes:
        batch: images adapted in one pass.
    """

    def __init__(
        self,
        model: str | Backbone,
        labels: Sequence[str] | Mapping[str, str],
        *,
        templates: str | Sequence[str] = DEFAULT_TEMPLATE,
        settings: str | GRPOSettings = "default",
        seed: int = 0,
        device: str | torch.device = "auto",
        batch: int | Literal["auto"] = 16,
        download: bool = False,
        dtype: Dtype = "float32",
        weights: str | Path | None = None,
        cache: bool = True,
        reward: RewardFunction | None = None,
        workers: int | None = None,
    ) -> None:
        """
        Args:
            model: a model's name (see `grpo_tta.load_backbone`) or a backbone, your own among them.
            labels: at least two distinct class names; or label -> the name that its prompts hold. In such a mapping two labels
                may share a name where OpenAI's names of ImageNet's classes do ("missile", "sunglasses").
            templates: one or more prompts with `{}` where the label goes; several are averaged.
            settings: `default`, `fast`, `paper`, or settings of your own.
            seed: of views, copies and sampled groups.
            device: where a model named by a string runs; `auto` is a CUDA device where there is one, else the CPU.
            batch: images adapted in one pass; changes speed and memory, not answers. `auto` takes as many as help, if the
                device has the memory for them.
            download: whether weights may be fetched; never done unasked.
            dtype, weights: precision of the frozen visual encoder, and a checkpoint of your own, for a model named by a
                string (see `grpo_tta.load_backbone`).
            cache: whether text features may be kept on disk, and read from there.
            reward: your own, in place of the settings': a function (reference, group) -> `[B, M, K]` (see `grpo_tta.Reward`).
            workers: threads that read and decode the next batch of paths while one is in work; changes speed, not answers. 0
                reads them in the caller's thread; None chooses by the number of cores.

        Raises:
            UserError: unknown model or preset, an incomplete backbone, missing weights, unusable labels or templates,
                settings that do not fit, batch < 1, or workers < 0.
        """
        if isinstance(settings, str):
            if settings not in PRESETS:
                raise UserError(f"Unknown preset {settings!r}; choose {' or '.join(PRESETS)}.")
            settings = PRESETS[settings]
        if reward is not None:
            settings = replace(settings, reward=reward)
        if batch != "auto":
            _check_batch(batch)
        self.workers = check_workers(workers)
        templates = (templates,) if isinstance(templates, str) else tuple(templates)
        if isinstance(model, str):
            self.backbone = load_backbone(model, device=device, download=download, dtype=dtype, weights=weights)
        elif weights is not None:
            raise UserError("weights go with the name of a model; a backbone has its own.")
        else:
            self.backbone = check_backbone(model)
        with _plain(self.backbone):
            self.policy = Policy(self.backbone, _prompts(self.backbone, labels, templates, cache=cache))
        self._names = _names(labels)
        self.settings, self.seed, self._cache = settings, seed, cache
        self._embeds = False
        self._method = grpo_method(settings)
        self._method.cached_blocks(self.backbone)  # refuses what the model cannot tune
        with _plain(self.backbone):
            self.batch = choose_batch(self.policy, [self._method]) if batch == "auto" else batch

    @property
    def least_side(self) -> int | None:
        """Shorter side in pixels to which an image may be reduced while it is decoded; None with `views.full_resolution`."""
        return self.settings.views.least_side(self.backbone.image_size)

    @property
    def labels(self) -> tuple[str, ...]:
        return self.policy.prompts.labels

    def with_labels(
        self,
        labels: Sequence[str] | Mapping[str, str],
        *,
        templates: str | Sequence[str] | None = None,
        cache: bool | None = None,
    ) -> GRPOTTA:
        """The same model, settings, seed and batch for other labels. Nothing is loaded again; this object stays as it is.

        Args:
            labels: as for a new object.
            templates: prompts with `{}`; this object's own by default.
            cache: whether text features may be kept on disk, and read from there; as for this object by default.

        Raises:
            UserError: unusable labels or templates.
        """
        if templates is None:
            templates = self.policy.prompts.templates
        templates = (templates,) if isinstance(templates, str) else tuple(templates)
        other = copy.copy(self)
        other._cache = self._cache if cache is None else cache
        if (tuple(labels), _names(labels), templates) != (self.labels, self._names, self.policy.prompts.templates):
            with _plain(self.backbone):
                other.policy = Policy(self.backbone, _prompts(self.backbone, labels, templates, cache=other._cache))
            other._names = _names(labels)
        return other

    def with_embeddings(self) -> GRPOTTA:
        """The same, but every prediction also holds its `embedding`, at the cost of one more pass of view 0 through the blocks
        that are tuned. This object stays as it is."""
        other = copy.copy(self)
        other._embeds = True
        return other

    @overload
    def predict(self, images: ImageLike) -> Prediction: ...  # type: ignore[overload-overlap]  # a str is a sequence
    @overload
    def predict(self, images: Iterable[ImageLike]) -> list[Prediction]: ...
    def predict(self, images: ImageLike | Iterable[ImageLike]) -> Prediction | list[Prediction]:
        """Adapts to each image alone and classifies it.

        Args:
            images: one image, or any number of them (a list, a generator, a tensor `[N, 3, H, W]`). An image is a PIL image; a
                uint8 array `[H, W, 3]` or `[H, W]`; a tensor `[3, H, W]`, uint8 or float in [0, 1]; a path; or an encoded image
                as bytes or as an open binary file. Floats are rounded to 8 bits, as in a decoded image.

        Raises:
            UserError: an image is missing, damaged, of an unusable type or shape, or holds NaN.
        """
        return self._answer(images, self._predictions)

    @overload
    def predict_iter(
        self, images: Iterable[ImageLike], errors: Literal["raise"] = "raise", *, batch: int | None = None
    ) -> Iterator[Prediction]: ...
    @overload
    def predict_iter(
        self, images: Iterable[ImageLike], errors: Literal["return"], *, batch: int | None = None
    ) -> Iterator[Prediction | UserError]: ...
    def predict_iter(
        self, images: Iterable[ImageLike], errors: OnError = "raise", *, batch: int | None = None
    ) -> Iterator[Prediction] | Iterator[Prediction | UserError]:
        """The answers of `predict`, in order, each as soon as its batch is done. Memory does not grow with the images.

        Args:
            images: any number of them, read a batch at a time. Where the first is a path, the next batch is read meanwhile.
            errors: `raise` ends at the first image that fails, after the answers before it; `return` yields its error, a
                `UserError`, in its place.
            batch: images adapted in one pass; this object's own by default.

        Raises:
            UserError: another word for `errors`, batch < 1, or (with `raise`) as `predict`.
        """
        return self._each(images, self._predictions, errors, batch)

    @overload
    def stream(
        self, images: Iterable[ImageLike], errors: Literal["raise"] = "raise", *, settings: StreamSettings = ONLINE
    ) -> Stream[Prediction]: ...
    @overload
    def stream(
        self, images: Iterable[ImageLike], errors: Literal["return"], *, settings: StreamSettings = ONLINE
    ) -> Stream[Prediction | UserError]: ...
    def stream(
        self, images: Iterable[ImageLike], errors: OnError = "raise", *, settings: StreamSettings = ONLINE
    ) -> Stream[Prediction] | Stream[Prediction | UserError]:
        """Adapts along a stream of images and classifies them, in order: every answer depends on all images before it.

        The answers of a minibatch (`settings.update_size` images, the last may be fewer) come together. Memory does not grow
        with the images. What the stream remembers is in the iterator, not in this object: see `Stream.state_dict`,
        `load_state_dict` and `reset`. The order is the stream, so answers cannot be computed side by side.

        Args:
            images: any number of them, read a minibatch at a time.
            errors: as for `predict_iter`. An image that cannot be read teaches nothing.
            settings: of the stream, its views among them. This object's own are those of single images and do not count here.

        Raises:
            UserError: another word for `errors`, settings that do not fit the model or forget after each minibatch, or (with
                `raise`) as `predict`.
        """
        if errors not in get_args(OnError):
            raise UserError(f"Unknown errors {errors!r}; choose {' or '.join(get_args(OnError))}.")
        if settings.protocol != "online":
            raise UserError("A stream carries its state along; use settings with protocol online.")
        if is_one_image(images) or not isinstance(images, Iterable):
            raise UserError("A stream is any number of images; put a single one into a list.")
        workers, loads = self._loads(images, lambda image: image)
        return self._stream(loads, errors, settings, workers)

    def _stream(
        self, loads: Iterable[Callable[[], ImageLike]], errors: OnError, settings: StreamSettings, workers: int
    ) -> Stream[Any]:
        method = stream_method(settings, "grpo-tta-online")
        method.cached_blocks(self.backbone)  # refuses what the model cannot tune

        def prepare(load: Callable[[], ImageLike]) -> ImageViews:
            return self._prepare_for(method, settings.grpo.views, load())

        def work(images: Sequence[ImageViews], state: State) -> tuple[list[Prediction], State]:
            with _plain(self.backbone):
                adaptation, state = method(self.policy, encode_prepared([method], self.policy, images), state)
            if not torch.isfinite(adaptation.after).all():
                raise UserError("The adapted model returned NaN or infinite numbers; lower the learning rate of the settings.")
            return self._read_answers(adaptation), state

        prompts, dtype = self.policy.prompts, str(self.backbone.dtype)
        key = [self.backbone.fingerprint, dtype, self.labels, self._names, prompts.templates, settings, self.seed]
        prepared = (partial(prepare, load) for load in loads)
        return Stream(prepared, work, settings.update_size, short_hash(key), errors, workers)

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
        return self._answer(images, self._scores)

    def score_iter(self, images: Iterable[ImageLike], *, batch: int | None = None) -> Iterator[dict[str, float]]:
        """The answers of `score`, as `predict_iter` gives those of `predict`.

        Raises:
            UserError: batch < 1, or as `predict`.
        """
        return self._each_or_raise(images, self._scores, batch)

    def embed(self, images: ImageLike | Iterable[ImageLike]) -> Tensor:
        """Image features of the adapted model, float32 of unit length on the model's device: `[N, D]`, or `[D]` for one image.

        They are those of view 0, the model's own preprocessing of the whole image, after the policy steps on that image. They
        live in the space of the model's text features. Neither the other views nor the content-free prior enter them
        directly, so their most similar label may differ from that of `predict`. Where no step is taken (`steps.count` is 0,
        or all rewards are equal) they are the frozen model's own.

        Raises:
            UserError: as `predict`.
        """
        if is_one_image(images):
            return self._features([self._prepare(images)])[0]
        rows = list(self._each_or_raise(images, self._features))
        return torch.stack(rows) if rows else self.policy.directions(self.policy.text_features[:0]).clone()

    def adapt_batch(
        self, pixels: Tensor, *, content_free: Tensor | None = None, image_ids: Sequence[str] | None = None
    ) -> Adaptation:
        """Adapts to each image of a tensor alone: for a loop of your own. All B images are adapted in one pass.

        Args:
            pixels: images `[B, 3, H, W]`, uint8 or float in [0, 1], whose views are made as `predict` makes them. Or
                normalised views `[B, V, 3, S, S]` of your own, view 0 the model's own preprocessing, S its input size in
                pixels. There must be as many as the settings' `views.views`; of more the first are taken.
            content_free: normalised content-free views `[B, P, 3, S, S]`, with views alone, where the settings need them.
            image_ids: B names; with the seed they decide every random number. By default hashes of the pixels.

        Returns:
            Log-probabilities `[B, C]` of the frozen model (`before`) and after adaptation (`after`), and the cost.

        Raises:
            UserError: another shape or type, NaN, values outside [0, 1], too few views, or not as many names as images.
        """
        if not isinstance(pixels, Tensor) or pixels.ndim not in (4, 5) or len(pixels) == 0:
            what = list(pixels.shape) if isinstance(pixels, Tensor) else type(pixels).__name__
            raise UserError(f"A batch must be a tensor of images [B, 3, H, W] or of views [B, V, 3, S, S], not {what}.")
        if image_ids is not None and len(image_ids) != len(pixels):
            raise UserError(f"{len(image_ids)} image_ids do not name {len(pixels)} images; give one per image.")
        with _plain(self.backbone):
            if pixels.ndim == 4:
                if content_free is not None:
                    raise UserError("Content-free views go with views [B, V, 3, S, S]; those of images are made here.")
                names = itertools.repeat(None) if image_ids is None else image_ids
                batch = self._encode([self._prepare(one, name) for one, name in zip(pixels, names, strict=False)])
            else:
                batch = self._encode_given(pixels.detach(), content_free, image_ids)
            return self._method(self.policy, batch, {})[0]

    def explain(self, image: ImageLike) -> Explanation:
        """The answer for one image, with candidates, rewards, advantages and probabilities at every step.

        Raises:
            UserError: the image is missing, damaged or of an unusable type.
        """
        _, adaptation = self._adapt([self._prepare(image)])
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
        return Explanation(self._read_answers(adaptation)[0], tuple(views), steps, bool(scored.update_mask[0]), content_free)

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

    def _answer(self, images: ImageLike | Iterable[ImageLike], work: Callable[[Sequence[ImageViews]], list[R]]) -> R | list[R]:
        if is_one_image(images):
            return work([self._prepare(images)])[0]
        return list(self._each_or_raise(images, work))

    def _each_or_raise(
        self,
        images: ImageLike | Iterable[ImageLike],
        work: Callable[[Sequence[ImageViews]], list[R]],
        batch: int | None = None,
    ) -> Iterator[R]:
        return cast(Iterator[R], self._each(images, work, "raise", batch))

    def _each(
        self,
        images: ImageLike | Iterable[ImageLike],
        work: Callable[[Sequence[ImageViews]], list[R]],
        errors: OnError,
        batch: int | None = None,
    ) -> Iterator[R | UserError]:
        if errors not in get_args(OnError):
            raise UserError(f"Unknown errors {errors!r}; choose {' or '.join(get_args(OnError))}.")
        if batch is not None:
            _check_batch(batch)
        many = [images] if is_one_image(images) else cast(Iterable[ImageLike], images)
        if not isinstance(many, Iterable):
            raise UserError(f"Images must be one image or any number of them, not {type(images).__name__}.")
        return self._read_and_work(many, work, batch or self.batch, errors)

    def _read_and_work(
        self, images: Iterable[ImageLike], work: Callable[[Sequence[ImageViews]], list[R]], batch: int, errors: OnError
    ) -> Iterator[R | UserError]:
        workers, loads = self._loads(images, self._prepare)
        yield from answer_each(loads, work, batch, errors, workers)

    def _loads(self, images: Iterable[ImageLike], prepare: Callable[[ImageLike], T]) -> tuple[int, Iterator[Callable[[], T]]]:
        """How many threads read ahead, and a load for each image."""
        waiting = iter(images)
        some = list(itertools.islice(waiting, 1))
        # Images that are there already need no reading ahead, and those of a generator should not pile up.
        workers = self.workers if some and is_stored(some[0]) else 0
        return workers, (partial(prepare, image) for image in itertools.chain(some, waiting))

    def _prepare(self, image: ImageLike, image_id: str | None = None) -> ImageViews:
        """All that is done to an image before the model sees it, but for its crops. Runs on any thread."""
        return self._prepare_for(self._method, self.settings.views, image, image_id)

    def _prepare_for(self, method: Method, kind: ViewSettings, image: ImageLike, image_id: str | None = None) -> ImageViews:
        """The same for any method, with views of some kind."""
        with _plain(self.backbone):
            decoded = decode_image(image, kind.least_side(self.backbone.image_size))
            settings = views_for([method], kind)
            return prepare_image(self.backbone, decoded.image, image_id or decoded.key, settings, self.seed)

    def _encode(self, images: Sequence[ImageViews]) -> ImageBatch:
        return encode_prepared([self._method], self.policy, images)

    def _encode_given(self, views: Tensor, content_free: Tensor | None, image_ids: Sequence[str] | None) -> ImageBatch:
        """Views of the caller's own, `[B, V, 3, S, S]` and `[B, P, 3, S, S]`, in place of those that are made."""
        B, S, needed = len(views), self.backbone.image_size, self.settings.views
        content_free = views[:, :0] if content_free is None else content_free.detach()
        for what, given, count in (("views", views, needed.views), ("content_free", content_free, needed.content_free)):
            if given.ndim != 5 or (len(given), *given.shape[2:]) != (B, 3, S, S) or given.shape[1] < count:
                raise UserError(f"The {what} must be [{B}, {count}, 3, {S}, {S}] or more of them, not {list(given.shape)}.")
            if not given.is_floating_point():
                raise UserError(f"The {what} must be normalised floats, not {str(given.dtype).removeprefix('torch.')}.")
        views, content_free = (
            given[:, :count].to(self.backbone.device, torch.float32)
            for given, count in ((views, needed.views), (content_free, needed.content_free))
        )
        names = [_view_key(view) for view in views[:, 0]] if image_ids is None else image_ids
        encoded = encode_views(self.policy, views, content_free, self._method.cached_blocks(self.backbone))
        return ImageBatch(tuple(names), views, content_free, encoded, self.seed)

    def _adapt(self, images: Sequence[ImageViews]) -> tuple[EncodedViews, Adaptation]:
        with _plain(self.backbone):
            batch = self._encode(images)
            return batch.encoded, self._method(self.policy, batch, {})[0]

    def _features(self, images: Sequence[ImageViews]) -> list[Tensor]:
        with _plain(self.backbone):
            batch = self._encode(images)
            ids = batch.image_ids
            return list(adapted_features(self.policy, batch.encoded, self.settings, image_ids=ids, seed=self.seed))

    def _scores(self, images: Sequence[ImageViews]) -> list[dict[str, float]]:
        encoded, adaptation = self._adapt(images)
        scores = adaptation.after.exp()  # [B, C]
        if self.backbone.logit_bias is not None:
            cosine = encoded.features[:, 0] @ self.policy.text_features.T  # [B, C]
            evidence = (self.backbone.logit_scale * cosine + self.backbone.logit_bias).logsumexp(-1, keepdim=True)
            scores = (adaptation.after + evidence).sigmoid()
        return [dict(zip(self.labels, row, strict=True)) for row in scores.tolist()]

    def _predictions(self, images: Sequence[ImageViews]) -> list[Prediction]:
        if not self._embeds:
            return self._read_answers(self._adapt(images)[1])
        with _plain(self.backbone):
            batch = self._encode(images)
            done = update(self.policy, batch.encoded, self.settings, batch.image_ids, self.seed)
            answers = self._read_answers(answer(self.policy, batch.encoded, self.settings, done))
            features = features_of_view0(self.policy, batch.encoded, done).cpu()
        return [replace(found, embedding=row) for found, row in zip(answers, features, strict=True)]

    def _read_answers(self, adaptation: Adaptation) -> list[Prediction]:
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


def _names(labels: Sequence[str] | Mapping[str, str]) -> tuple[str, ...]:
    """What the prompts hold."""
    return tuple(labels.values() if isinstance(labels, Mapping) else labels)


def _check_batch(batch: int | str) -> None:
    if isinstance(batch, str) or batch < 1:
        raise UserError(f"A batch of {batch} images cannot be adapted; set batch to at least 1, or to auto.")


def _prompts(
    backbone: Backbone, labels: Sequence[str] | Mapping[str, str], templates: Sequence[str], *, cache: bool
) -> ClassPrompts:
    if not isinstance(labels, Mapping):
        return make_prompts(backbone, labels, templates, cache=cache)
    from grpo_tta.data.labels import names_may_repeat  # here, since it is rarely needed and reads pyarrow

    names = _names(labels)
    prompts = make_prompts(backbone, names, templates, cache=cache, repeats=names_may_repeat(names))
    return replace(prompts, labels=check_labels(list(labels)))


@contextlib.contextmanager
def _plain(backbone: Backbone) -> Iterator[None]:
    """A step needs gradients, and all of it its own precision, whatever the caller's code runs under."""
    with torch.inference_mode(False), torch.autocast(torch.device(backbone.device).type, enabled=False):
        yield


def _view_key(view: Tensor) -> str:
    """Hash of a normalised view, the identity of an image of which there is no other."""
    return hashlib.blake2b(view.cpu().contiguous().numpy().tobytes(), digest_size=16).hexdigest()


def classify(
    classifier: GRPOTTA, load: Callable[[int], ImageLike], count: int, batch: int
) -> Iterator[tuple[int, Prediction | str]]:
    """An answer for each image in order, or a sentence that says why not; never more than two batches of images in memory.

    Args:
        classifier: the model; its workers load the next batch while one is in work.
        load: number of an image -> the image, or where it is read from; may raise. Called by the workers.
        count: how many images.
        batch: images adapted in one pass.
    """

    def prepare(number: int) -> ImageViews:
        return classifier._prepare(load(number))

    loads = (partial(prepare, number) for number in range(count))
    for number, found in enumerate(answer_each(loads, classifier._predictions, batch, "return", classifier.workers)):
        yield number, sentence(found) if isinstance(found, UserError) else found


def classify_stream(
    classifier: GRPOTTA, load: Callable[[int], ImageLike], numbers: Iterable[int], settings: StreamSettings
) -> Stream[Prediction | UserError]:
    """`GRPOTTA.stream` of images that are loaded by number; an image that cannot be is answered by its error."""
    return classifier._stream((partial(load, number) for number in numbers), "return", settings, classifier.workers)
