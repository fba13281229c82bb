"""How many images are adapted in one pass where nobody says: as many as help, if the device has the memory for them.

The need is measured on one view of the model at hand, before the first image: what a frozen pass holds at its peak, and what
the blocks behind the first tuned one keep for a backward pass. What is chosen changes speed and memory, not answers.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grpo_tta.backbones.hardware import free_memory
from grpo_tta.engine.encode import CHUNK, encode_views
from grpo_tta.engine.interface import Method
from grpo_tta.engine.policy import Policy

MOST: Mapping[str, int] = {"cpu": 4, "cuda": 32}
"""Images by kind of device from which on more bring little: docs/cost.md has the rates. Of any other kind as of a CPU."""
_SHARE = 0.7
"""Of the free memory, to be used; the rest is for what is not counted here, and for other programs."""
_COPIES = 3
"""Of views and kept tokens while a batch is put together: the parts, the whole, and views beside content-free views."""
_FLOAT, _CLASS_TENSORS = 4, 16
"""Bytes of a float32; tensors `[B, V, C]` that selection, group, rewards and objective hold at the most."""


@final
@dataclass(frozen=True)
class Need:
    """Bytes.

    Attributes:
        views: views and content-free views of an image.
        view: of each view while it is in a frozen pass.
        step: of each image while it takes its step, when no frozen pass runs.
        stored: of each image all the time: its views, kept tokens and probabilities.
    """

    views: int
    view: int
    step: int
    stored: int


def images_in_flight(need: Need, free: int, most: int) -> int:
    """The most images, 1 to `most`, whose frozen passes and episodes fit into a share of the free bytes.

    A frozen pass is cut at `encode.CHUNK` views, so its own part stops growing there.
    """
    for count in range(most, 1, -1):
        passing = min(count * need.views, CHUNK) * need.view
        if max(passing, count * need.step) + count * need.stored <= _SHARE * free:
            return count
    return 1


def choose_batch(policy: Policy, methods: Sequence[Method], *, processes: int = 1) -> int:
    """Images in flight for these methods on the policy's device.

    Args:
        processes: that share the device's free memory.
    """
    device = policy.backbone.device
    most = MOST.get(device.type, MOST["cpu"])
    free = free_memory(device)
    return most if free is None else images_in_flight(measure_need(policy, methods), free // processes, most)


def measure_need(policy: Policy, methods: Sequence[Method]) -> Need:
    """What images take, from one view's pass through the model. Counts the most demanding of the methods.

    A method that keeps no tokens is counted as one that takes no step. One that tunes the whole encoder from the pixels takes
    more than is counted here; where that is too much, `retry.batch_or_each` divides its batch.
    """
    backbone = policy.backbone
    S = backbone.image_size
    V, P = max(m.views for m in methods), max(m.content_free for m in methods)
    cached = {index for method in methods for index in method.cached_blocks(backbone)}
    view = torch.zeros(1, 1, 3, S, S, device=backbone.device)
    with _LiveBytes() as live:
        kept = encode_views(policy, view, view[:, :0], cached).tokens
    step = _kept_for_backward(policy, min(kept), kept[min(kept)][0]) if kept else 0
    stored = 3 * S * S * _FLOAT + sum(_bytes(x) for x in kept.values())
    classes = _CLASS_TENSORS * policy.classes * _FLOAT
    return Need(V + P, live.peak, V * step, (V + P) * (_COPIES * stored + classes))


def _kept_for_backward(policy: Policy, first: int, tokens: Tensor) -> int:
    """Bytes that one view's pass from block `first` on holds until its backward pass, and the largest of them once more."""
    frozen = {p.untyped_storage().data_ptr() for p in policy.backbone.parameters()}
    seen: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        place = x.untyped_storage().data_ptr()
        if place not in frozen:
            seen[place] = x.untyped_storage().nbytes()
        return x

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        x = tokens.detach().requires_grad_()
        for block in policy.backbone.blocks[first:]:
            x = block(x)
        policy.log_probs(policy.backbone.head(x))
    return sum(seen.values()) + max(seen.values(), default=0)


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


@final
class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside: those alive, and the most that ever were.

    Attributes:
        peak: the most.
    """

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for x in tree_leaves(made):
            if isinstance(x, Tensor) and (key := x.untyped_storage()._cdata) not in given | self._alive.keys():
                self._alive[key] = x.untyped_storage().nbytes()
                weakref.finalize(x.untyped_storage(), self._alive.pop, key, None)
        self.peak = max(self.peak, sum(self._alive.values()))
        return made
