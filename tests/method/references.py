"""References made by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from grpo_tta.engine.distributions import log_mean_probs
from grpo_tta.method.types import Reference


def reference_of(log_probs: Tensor, **changes: Any) -> Reference:
    """What the frozen model said, from views `[B, M, C]` that all count alike."""
    B, M, C = log_probs.shape
    given: dict[str, Any] = {
        "log_probs": log_probs,
        "views": torch.arange(M).expand(B, M),
        "view_mask": torch.ones(B, M, dtype=torch.bool),
        "views_read": torch.full((B,), M),
        "weights": torch.full((B, M), 1 / M, dtype=log_probs.dtype),
        "ensemble": log_mean_probs(log_probs),
        "content_free": None,
        "text_features": torch.eye(C, dtype=log_probs.dtype),
    }
    return Reference(**(given | changes))
