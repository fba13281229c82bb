"""Other weights for the whole visual encoder, without touching the model or copying its code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from grpo_tta.backbones.base import Backbone


def encode(backbone: Backbone, pixels: Tensor) -> Tensor:
    """The visual encoder from pixels to features, not normalised: `[N, 3, S, S]` -> `[N, D]`."""
    tokens = backbone.stem(pixels)
    for block in backbone.blocks:
        tokens = block(tokens)
    return backbone.head(tokens)


@torch.no_grad()
def read_parameters(backbone: Backbone, pixels: Tensor) -> dict[str, nn.Parameter]:
    """Every floating-point parameter that a pass of the visual encoder reads, found by watching one; numbered names."""
    with _Watch() as watch:
        encode(backbone, pixels)
    return {str(number): parameter for number, parameter in enumerate(watch.found.values())}


@final
class _Watch(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, nn.Parameter] = {}

    def _note(self, x: Any) -> None:
        if isinstance(x, nn.Parameter) and x.is_floating_point():
            self.found[id(x)] = x

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tree_map(self._note, (args, kwargs))
        return func(*args, **(kwargs or {}))


@final
class OwnWeights(TorchFunctionMode):
    """Inside, the model's code reads other values for some of its parameters: `id(parameter)` -> tensor.

    The end is that of `torch.func.functional_call`, which however swaps the tensors inside the shared modules while it
    runs; this is local to the thread, so the frozen model is not modified even for that long.
    """

    def __init__(self, own: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._own = own

    def _swap(self, x: Any) -> Any:
        own = self._own.get(id(x))
        return x if own is None else own.to(x.dtype)

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*tree_map(self._swap, args), **tree_map(self._swap, kwargs or {}))
