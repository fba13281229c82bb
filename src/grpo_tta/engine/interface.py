"""The contract of a method: a callable from a batch of images to an `Adaptation`, with its protocol declared.

A method never sees a label: there is no place for one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import torch
from PIL import Image
from torch import Tensor

from grpo_tta.backbones.base import Backbone
from grpo_tta.engine.early_exit import Stop
from grpo_tta.engine.encode import observe_images
from grpo_tta.engine.policy import EncodedViews, Policy
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.grpo import Adaptation

Protocol = Literal["episodic", "batch", "online"]
RewardModel = Literal["none", "own", "teacher"]
State = dict[str, Tensor]


@final
@dataclass(frozen=True)
class ImageBatch:
    """B images as a method sees them.

    Attributes:
        image_ids: one per image; with the seed they name every random number.
        views: `[B, V, 3, S, S]`, view 0 the model's own preprocessing.
        copies: `[B, P, 3, S, S]`.
        seen: the frozen model's pass over them.
        seed: of the run.
    """

    image_ids: tuple[str, ...]
    views: Tensor
    copies: Tensor
    seen: EncodedViews
    seed: int

    def first(self, views: int, copies: int) -> ImageBatch:
        """The same with fewer views and copies."""
        return ImageBatch(
            self.image_ids, self.views[:, :views], self.copies[:, :copies], self.seen.first(views, copies), self.seed
        )

    def part(self, rows: slice | list[int]) -> ImageBatch:
        """Some of the images: a run of them, or those at these places."""
        seen = self.seen
        tokens = {cut: kept[rows] for cut, kept in seen.tokens.items()}
        observed = EncodedViews(seen.features[rows], seen.log_probs[rows], tokens, seen.views)
        names = self.image_ids[rows] if isinstance(rows, slice) else tuple(self.image_ids[row] for row in rows)
        return ImageBatch(names, self.views[rows], self.copies[rows], observed, self.seed)


def concatenate(batches: Sequence[ImageBatch]) -> ImageBatch:
    """Batches of one run, made with the same counts, as one."""
    first = batches[0]
    seen = EncodedViews(
        torch.cat([b.seen.features for b in batches]),
        torch.cat([b.seen.log_probs for b in batches]),
        {cut: torch.cat([b.seen.tokens[cut] for b in batches]) for cut in first.seen.tokens},
        first.seen.views,
    )
    names = tuple(name for b in batches for name in b.image_ids)
    views, copies = (torch.cat(x) for x in ([b.views for b in batches], [b.copies for b in batches]))
    return ImageBatch(names, views, copies, seen, first.seed)


@final
@dataclass(frozen=True)
class Method:
    """One method with one setting.

    Attributes:
        name: as it stands in tables.
        protocol: `episodic` forgets after every image; `batch` after every batch; `online` carries state along a stream.
        reward: which model scores: none, the adapted model's own frozen weights, or a teacher.
        views, copies: V and P that it needs.
        settings: its frozen dataclass of settings (None where there are none).
        cuts: blocks whose input tokens it wants kept from the frozen pass.
        run: (policy, batch, state) -> (adaptation, new state). The state of an episodic method is empty and stays so.
        teacher: name of the model that scores, where the reward is a teacher's.
        stop: when an image needs no more views; None where all are read.
    """

    name: str
    protocol: Protocol
    reward: RewardModel
    views: int
    copies: int
    settings: Any
    cuts: Callable[[Backbone], Sequence[int]]
    run: Callable[[Policy, ImageBatch, State], tuple[Adaptation, State]]
    teacher: str | None = None
    stop: Stop | None = None

    def __call__(self, policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return self.run(policy, batch.first(self.views, self.copies), state)


def no_cuts(backbone: Backbone) -> Sequence[int]:
    return ()


def observe(policy: Policy, views: Tensor, copies: Tensor, methods: Sequence[Method], *, chunk: int = 256) -> EncodedViews:
    """The frozen pass that all the methods share, with every token that one of them wants."""
    cuts = sorted({cut for method in methods for cut in method.cuts(policy.backbone)})
    return policy.observe(views, copies, cuts, chunk=chunk)


def look(
    policy: Policy,
    images: Sequence[Image.Image],
    image_ids: tuple[str, ...],
    settings: ViewSettings,
    seed: int,
    method: Method,
) -> ImageBatch:
    """What one method sees of B decoded RGB images when it runs alone: no more views than it needs.

    Args:
        settings: the kind of views; their numbers are the method's.
    """
    settings = replace(settings, views=method.views, content_free=method.copies)
    cuts = method.cuts(policy.backbone)
    return ImageBatch(image_ids, *observe_images(policy, images, image_ids, settings, seed, cuts, method.stop), seed)
