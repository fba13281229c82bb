"""A block whose call takes more than tokens, with everything else fixed."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor, nn


@final
class BoundBlock(nn.Module):
    """Calls `block(tokens, **fixed)`, so that a backbone's blocks can be run one after the other with tokens alone."""

    def __init__(self, block: nn.Module, **fixed: Any) -> None:
        """
        Args:
            fixed: keyword arguments of every call, the same for all images.
        """
        super().__init__()
        self.block = block
        self._fixed = fixed

    def forward(self, tokens: Tensor) -> Tensor:
        return self.block(tokens, **self._fixed)
