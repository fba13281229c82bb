"""What a method gets and gives: a batch of images with what the frozen model saw, and an `Adaptation`.

A method is a callable `(policy, batch, state) -> (Adaptation, state)` with its protocol declared. It never sees a label.

Sizes: B images, V views, P content-free views, N = V + P, C classes, T tokens, W token width, D feature width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, final

import torch
from torch import Tensor

from grpo_tta.backbones.base import Backbone
from grpo_tta.engine.early_exit import Rounds
from grpo_tta.engine.policy import Policy

ProtocolName = Literal["episodic", "batch", "online"]
RewardModel = Literal["none", "own", "teacher"]
State = dict[str, Tensor]


def portable(state: Mapping[str, Tensor]) -> State:
    """Copies on the CPU that share no memory, as safetensors asks for."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


@final
@dataclass(frozen=True)
class EncodedViews:
    """What the frozen model sees in B images: N = V views followed by P content-free views.

    Attributes:
        features: `[B, N, D]`, as `Policy.scaled` has them: of unit length, but for image classifiers.
        log_probs: `[B, N, C]`, log pi_0.
        tokens: block index -> the tokens that enter it, `[B, N, T, W]`.
        views: V.
    """

    features: Tensor
    log_probs: Tensor
    tokens: Mapping[int, Tensor]
    views: int

    def first(self, views: int, content_free: int) -> EncodedViews:
        """The same with fewer views and content-free views: the first of each.

        Raises:
            ValueError: there are not that many.
        """
        have = self.log_probs.shape[1] - self.views
        if views > self.views or content_free > have:
            raise ValueError(f"{views} views and {content_free} content-free views were asked of {self.views} and {have}.")
        if (views, content_free) == (self.views, have):
            return self

        def take(x: Tensor) -> Tensor:
            return torch.cat([x[:, :views], x[:, self.views : self.views + content_free]], dim=1)

        return EncodedViews(take(self.features), take(self.log_probs), {i: take(x) for i, x in self.tokens.items()}, views)

    def part(self, rows: slice | list[int]) -> EncodedViews:
        """Some of the images."""
        tokens = {index: kept[rows] for index, kept in self.tokens.items()}
        return EncodedViews(self.features[rows], self.log_probs[rows], tokens, self.views)


@final
@dataclass(frozen=True)
class ImageBatch:
    """B images as a method sees them.

    Attributes:
        image_ids: one per image; with the seed they name every random number.
        views: `[B, V, 3, S, S]`, view 0 the model's own preprocessing.
        content_free: `[B, P, 3, S, S]`.
        encoded: the frozen model's pass over them, or over the first views alone where no method needs more.
        seed: of the run.
    """

    image_ids: tuple[str, ...]
    views: Tensor
    content_free: Tensor
    encoded: EncodedViews
    seed: int

    def first(self, views: int, content_free: int, frozen_views: int | None = None) -> ImageBatch:
        """The same with fewer views and content-free views, `frozen_views` of them encoded (all by default)."""
        encoded = self.encoded.first(views if frozen_views is None else frozen_views, content_free)
        return ImageBatch(self.image_ids, self.views[:, :views], self.content_free[:, :content_free], encoded, self.seed)

    def part(self, rows: slice | list[int]) -> ImageBatch:
        """Some of the images: a run of them, or those at these places."""
        names = self.image_ids[rows] if isinstance(rows, slice) else tuple(self.image_ids[row] for row in rows)
        return ImageBatch(names, self.views[rows], self.content_free[rows], self.encoded.part(rows), self.seed)


def concatenate(batches: Sequence[ImageBatch]) -> ImageBatch:
    """Batches of one run, made with the same counts, as one."""
    encoded = [b.encoded for b in batches]
    together = EncodedViews(
        torch.cat([e.features for e in encoded]),
        torch.cat([e.log_probs for e in encoded]),
        {index: torch.cat([e.tokens[index] for e in encoded]) for index in encoded[0].tokens},
        encoded[0].views,
    )
    names = tuple(name for b in batches for name in b.image_ids)
    views, content_free = torch.cat([b.views for b in batches]), torch.cat([b.content_free for b in batches])
    return ImageBatch(names, views, content_free, together, batches[0].seed)


def minibatches(batch: ImageBatch, size: int) -> Iterator[ImageBatch]:
    """Consecutive parts of at most `size` images, in order: a method's own update size, whatever the runner hands over."""
    for start in range(0, len(batch.image_ids), size):
        yield batch.part(slice(start, start + size))


@final
@dataclass(frozen=True)
class Cost:
    """Passes of one image through the visual encoder, in units of one full pass of one view.

    A pass through part of the blocks counts as that part. Content-free views count as views. A tensor `[B]` where
    images differ.
    """

    forwards: float | Tensor
    backwards: float | Tensor = 0.0

    def of(self, image: int) -> tuple[float, float]:
        """Forward and backward passes of one image of the batch."""
        forwards, backwards = (float(x[image]) if isinstance(x, Tensor) else float(x) for x in (self.forwards, self.backwards))
        return forwards, backwards


class Trace(Protocol):
    """How B predictions came about, in the method's own terms. Only the method and its own pages look inside."""

    def columns(self) -> Mapping[str, Sequence[Any]]:
        """Column of the records -> one value per image."""
        ...


@final
@dataclass(frozen=True)
class Traces:
    """Of consecutive minibatches.

    Attributes:
        parts: in their order, at least one.
    """

    parts: tuple[Trace, ...]

    def columns(self) -> Mapping[str, Sequence[Any]]:
        each = [part.columns() for part in self.parts]
        return {name: [value for columns in each for value in columns[name]] for name in each[0]}


@final
@dataclass(frozen=True)
class Adaptation:
    """The outcome of any method for B images.

    Attributes:
        before: `[B, C]` log-probabilities of the frozen model on view 0 (zero-shot).
        after: `[B, C]` log-probabilities of the prediction.
        cost: per image, what the method would cost alone.
        trace: how the predictions came about; None for methods that keep nothing.
    """

    before: Tensor
    after: Tensor
    cost: Cost
    trace: Trace | None = None


def concatenate_adaptations(parts: Sequence[Adaptation]) -> Adaptation:
    """The outcome of consecutive minibatches as one; their cost per image is the same."""
    traces = tuple(p.trace for p in parts if p.trace is not None)
    trace = Traces(traces) if len(traces) == len(parts) else None
    return Adaptation(torch.cat([p.before for p in parts]), torch.cat([p.after for p in parts]), parts[0].cost, trace)


@final
@dataclass(frozen=True)
class Method:
    """One method with one setting.

    Attributes:
        name: as it stands in tables.
        protocol: `episodic` forgets after every image; `batch` after every batch; `online` carries state along a stream.
        reward: which model scores: none, the adapted model's own frozen weights, or a teacher.
        views, content_free: V and P that it needs.
        settings: its frozen dataclass of settings (None where there are none).
        cached_blocks: blocks whose input tokens it wants kept from the frozen pass.
        run: (policy, batch, state) -> (adaptation, new state). The state of an episodic method is empty and stays so.
        teacher: name of the model that scores, where the reward is a teacher's.
        early_exit: when an image needs no more views; None where all are read.
        frozen_views: how many of the views, from the first, the frozen model is to read; None for all.
        reads_text: it works with text features as such, and so cannot adapt an image classifier.
    """

    name: str
    protocol: ProtocolName
    reward: RewardModel
    views: int
    content_free: int
    settings: Any
    cached_blocks: Callable[[Backbone], Sequence[int]]
    run: Callable[[Policy, ImageBatch, State], tuple[Adaptation, State]]
    teacher: str | None = None
    early_exit: Rounds | None = None
    frozen_views: int | None = None
    reads_text: bool = False

    @property
    def encoded_views(self) -> int:
        """Views that the frozen model reads."""
        return self.views if self.frozen_views is None else self.frozen_views

    def needed(self, batch: ImageBatch) -> ImageBatch:
        """What it reads of a batch that was made for several methods."""
        return batch.first(self.views, self.content_free, self.frozen_views)

    def __call__(self, policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return self.run(policy, self.needed(batch), state)


def no_cached_blocks(backbone: Backbone) -> Sequence[int]:
    return ()


def by_minibatches(
    step: Callable[[ImageBatch, State], tuple[Adaptation, State]], batch: ImageBatch, size: int, state: State
) -> tuple[Adaptation, State]:
    """Takes a step on each minibatch in turn, handing the state on."""
    done = []
    for some in minibatches(batch, size):
        adaptation, state = step(some, state)
        done.append(adaptation)
    return concatenate_adaptations(done), state
