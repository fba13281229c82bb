"""Views made and encoded by the frozen model, once per image: everything before the first tuned block runs here alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import final

import torch
from PIL import Image
from torch import Tensor

from grpo_tta.backbones.base import Backbone
from grpo_tta.engine.ahead import check_workers
from grpo_tta.engine.early_exit import Rounds, round_ends
from grpo_tta.engine.interface import EncodedViews, ImageBatch, Method
from grpo_tta.engine.onednn import frozen_products
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError
from grpo_tta.images.view_batch import ViewBatch
from grpo_tta.images.views import ImageViews, ViewSettings

CHUNK = 256
"""Views in one pass of the frozen model; bounds memory, changes nothing else."""
_CPU_TOKENS = 8 * 2**20
"""Bytes of tokens that go through the blocks together on a CPU. What a block makes of them is a few times as large, and memory
in larger pieces goes back to the system after every layer, only to be asked for again."""


@torch.no_grad()
def encode_views(
    policy: Policy, views: Tensor, content_free: Tensor, cached_blocks: Collection[int] = (), *, chunk: int = CHUNK
) -> EncodedViews:
    """One pass of the frozen model over all views, keeping the tokens that enter the blocks in `cached_blocks`.

    Args:
        views: `[B, V, 3, S, S]`.
        content_free: `[B, P, 3, S, S]`, P may be zero.
        cached_blocks: blocks whose input is kept for adaptation; the number of blocks stands for the input of the head.
        chunk: views per pass.

    Raises:
        UserError: the model returned NaN or infinite features.
    """
    backbone = policy.backbone
    B, V = views.shape[:2]
    features: list[Tensor] = []
    kept: dict[int, list[Tensor]] = {index: [] for index in cached_blocks}
    pixels = torch.cat([views, content_free], dim=1) if content_free.shape[1] else views
    for part in pixels.flatten(0, 1).split(chunk):
        with frozen_products(backbone):
            waiting = _together(backbone.stem(part))
            while waiting:
                tokens = waiting.pop(0)  # held by nobody else: its memory is free again behind the first block
                for index, block in enumerate(backbone.blocks):
                    if index in kept:
                        kept[index].append(tokens)
                    tokens = block(tokens)
                if len(backbone.blocks) in kept:
                    kept[len(backbone.blocks)].append(tokens)
                features.append(policy.scaled(backbone.head(tokens)))
    together = torch.cat(features).unflatten(0, (B, -1))  # [B, V + P, D]
    if not torch.isfinite(together).all():
        raise UserError(f"{backbone.name} returned NaN or infinite features; its weights or the input are damaged.")
    cached = {index: (torch.cat(parts) if len(parts) > 1 else parts[0]).unflatten(0, (B, -1)) for index, parts in kept.items()}
    return EncodedViews(together, policy.log_probs(together), cached, V)


def _together(tokens: Tensor) -> list[Tensor]:
    """The tokens of views in parts that go through the blocks one after the other: `[N, T, W]` -> `[n, T, W]` each.

    Maps `[N, ...]` of convolutions stay whole. They shrink from block to block, so the first do not tell what a part takes.
    """
    if tokens.device.type != "cpu" or tokens.ndim != 3:
        return [tokens]
    return list(tokens.split(max(1, _CPU_TOKENS * len(tokens) // max(1, tokens.nbytes))))


@torch.no_grad()
def tokens_at(backbone: Backbone, views: Tensor, block: int, *, chunk: int = CHUNK) -> Tensor:
    """Tokens that enter a block, by the frozen blocks before it: `[B, V, 3, S, S]` -> `[B, V, T, W]`."""
    B, V = views.shape[:2]
    kept = []
    for part in views.flatten(0, 1).split(chunk):
        tokens = backbone.stem(part)
        for frozen in backbone.blocks[:block]:
            tokens = frozen(tokens)
        kept.append(tokens)
    return torch.cat(kept).unflatten(0, (B, V))


def encode_for(
    methods: Sequence[Method],
    policy: Policy,
    images: Sequence[Image.Image],
    image_ids: Sequence[str],
    settings: ViewSettings,
    seed: int,
) -> ImageBatch:
    """What methods see of B decoded RGB images: as many views as the most demanding of them needs.

    A method that runs alone and knows when an image needs no more views gets no more.

    Args:
        settings: the kind of views; their numbers are the methods'.
        image_ids, seed: name every random number.
    """
    made = prepare_images(policy.backbone, images, image_ids, views_for(methods, settings), seed)
    return _encode(policy, made, _wanted(methods, policy.backbone))


def views_for(methods: Sequence[Method], settings: ViewSettings) -> ViewSettings:
    """The kind of views that `settings` name, as many as the most demanding method needs."""
    return replace(settings, views=max(m.views for m in methods), content_free=max(m.content_free for m in methods))


def encode_prepared(methods: Sequence[Method], policy: Policy, made: Sequence[ImageViews]) -> ImageBatch:
    """`encode_for` of B images that were prepared before, with the settings of `views_for`."""
    return _encode(policy, _batch_of(policy.backbone, made), _wanted(methods, policy.backbone))


@final
@dataclass(frozen=True)
class _Wanted:
    """
    Attributes:
        cached_blocks: whose input tokens are kept.
        early_exit: of a method that runs alone.
        frozen_views: that the frozen model reads; None for all.
    """

    cached_blocks: Collection[int]
    early_exit: Rounds | None = None
    frozen_views: int | None = None


def _wanted(methods: Sequence[Method], backbone: Backbone) -> _Wanted:
    cached_blocks = sorted({index for method in methods for index in method.cached_blocks(backbone)})
    early_exit = methods[0].early_exit if len(methods) == 1 else None
    return _Wanted(cached_blocks, early_exit, max(method.encoded_views for method in methods))


def encode_images(
    policy: Policy,
    images: Sequence[Image.Image],
    image_ids: Sequence[str],
    settings: ViewSettings,
    seed: int,
    *,
    cached_blocks: Collection[int] = (),
    early_exit: Rounds | None = None,
) -> ImageBatch:
    """Views of B decoded RGB images, made and encoded.

    With `early_exit` an image's views are made and encoded in rounds, only until it needs no more. In place of views that
    were not read stands view 0; `Rounds.views_read` finds the same counts in the result again. Content-free views are read
    with the first round.
    """
    wanted = _Wanted(cached_blocks, early_exit)
    return _encode(policy, prepare_images(policy.backbone, images, image_ids, settings, seed), wanted)


def prepare_images(
    backbone: Backbone, images: Sequence[Image.Image], image_ids: Sequence[str], settings: ViewSettings, seed: int
) -> ViewBatch:
    """B decoded RGB images, ready to be cut into views on the backbone's device."""

    def prepare(image: Image.Image, name: str) -> ImageViews:
        return prepare_image(backbone, image, name, settings, seed)

    if backbone.device.type == "cpu":  # its cores are the model's
        return _batch_of(backbone, list(map(prepare, images, image_ids)))
    with ThreadPoolExecutor(check_workers(None)) as pool:
        return _batch_of(backbone, list(pool.map(prepare, images, image_ids)))


def prepare_image(backbone: Backbone, image: Image.Image, image_id: str, settings: ViewSettings, seed: int) -> ImageViews:
    """One of them. Runs on any thread."""
    made = ImageViews(image, backbone.preprocess(image), image_id, seed, settings, backbone.mean, backbone.std)
    if backbone.device.type != "cpu":
        made.ready()  # what is left to the main thread is the device's work
    return made


def _batch_of(backbone: Backbone, made: Sequence[ImageViews]) -> ViewBatch:
    return ViewBatch(made, backbone.device, backbone.mean, backbone.std)


@torch.no_grad()
def _encode(policy: Policy, made: ViewBatch, wanted: _Wanted) -> ImageBatch:
    V, early_exit = made.settings.views, wanted.early_exit
    ends = [V] if early_exit is None else round_ends(V)
    views, content_free = made.views(range(ends[0])), made.content_free()
    encoded = encode_views(policy, views[:, : wanted.frozen_views], content_free, wanted.cached_blocks)
    if early_exit is not None:
        views, encoded = _read_on(policy, made, V, views, encoded, wanted.cached_blocks, early_exit)
    return ImageBatch(made.image_ids, views, content_free, encoded, made.seed)


def _read_on(
    policy: Policy,
    made: ViewBatch,
    V: int,
    views: Tensor,
    encoded: EncodedViews,
    cached_blocks: Collection[int],
    early_exit: Rounds,
) -> tuple[Tensor, EncodedViews]:
    """Round after round, for the images that need more views than were read."""
    ends = round_ends(V)
    views, encoded = _with_room(views, ends[0], V), _encoded_with_room(encoded, V)
    active = list(range(len(views)))
    for begin, end in pairwise(ends):
        needed = early_exit.views_read(encoded.log_probs[:, :V]).tolist()
        active = [b for b in active if needed[b] > begin]
        if not active:
            break
        more = made.views(range(begin, end), active)
        read = encode_views(policy, more, more[:, :0], cached_blocks)
        rows = torch.tensor(active, device=views.device)
        views[rows, begin:end] = more
        for whole, part in zip(_tensors(encoded), _tensors(read), strict=True):
            whole[rows, begin:end] = part
    return views, encoded


def _tensors(encoded: EncodedViews) -> list[Tensor]:
    """Everything that holds a row for every view, `[B, N, ...]` each."""
    return [encoded.features, encoded.log_probs, *(encoded.tokens[index] for index in sorted(encoded.tokens))]


def _with_room(x: Tensor, n: int, V: int) -> Tensor:
    """Room for V views behind the n that were read and before the content-free ones: `[B, n + P, ...]` -> `[B, V + P, ...]`."""
    return torch.cat([x[:, :n], x[:, :1].expand(-1, V - n, *x.shape[2:]), x[:, n:]], dim=1)


def _encoded_with_room(encoded: EncodedViews, V: int) -> EncodedViews:
    n = encoded.views
    tokens = {index: _with_room(kept, n, V) for index, kept in encoded.tokens.items()}
    return EncodedViews(_with_room(encoded.features, n, V), _with_room(encoded.log_probs, n, V), tokens, V)
