"""Runs a text encoder from given token embeddings, without a copy of its code and without touching its modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


@final
class EmbeddedTokens(TorchFunctionMode):
    """Inside, looking tokens up in `table` returns `embeddings` `[N, L, W]`, whatever the tokens are.

    Local to the thread and to the `with` block, as `grpo_tta.engine.parameters.PerImage`.
    """

    def __init__(self, table: Tensor, embeddings: Tensor) -> None:
        super().__init__()
        self._table, self._embeddings = table, embeddings

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # torch hands either name over, depending on whether the functional form checks for overrides itself.
        if func in (torch.embedding, F.embedding) and any(arg is self._table for arg in args):
            return self._embeddings.to(self._table.dtype)
        return func(*args, **(kwargs or {}))
