"""The one gradient loop: every method that moves parameters does it here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from grpo_tta.engine.optim import Update

Params = dict[str, Tensor]
Objective = Callable[[Mapping[str, Tensor]], Tensor]
"""Parameters with a leading image axis n -> what is to be raised, `[n]`. Every image gets the gradient it would get alone."""
Gradients = Callable[[Mapping[str, Tensor]], Sequence[Tensor]]
"""Parameters -> the gradient of each, in their order."""
Limit = Callable[[Mapping[str, Tensor], Params], Params]
"""(parameters before a step, after it) -> those that are kept."""
Watch = Callable[[Tensor], None]
"""Is handed the norm of the raw gradients of each step, `[n]`."""


def gradient_steps(
    params: Params,
    gradients: Gradients,
    update: Update,
    steps: int,
    *,
    update_mask: Tensor | None = None,
    limit: Limit | None = None,
    watch: Watch | None = None,
) -> Params:
    """Takes steps up a gradient.

    Args:
        params: leaves with a leading image axis n.
        gradients: of what is to be raised: `gradient_of` an objective, or one's own (TPT's come in chunks of classes).
        update: the optimizer with its moments.
        steps: how many.
        update_mask: `[n]` bool, images that move; all of them by default.
        limit: shortens a step that went too far.
        watch: is handed the gradient's norm at every step.
    """
    first = next(iter(params.values()))
    mask = torch.ones(len(first), dtype=torch.bool, device=first.device) if update_mask is None else update_mask
    for _ in range(steps):
        moved, norm = update.ascend(params, gradients(params), mask)
        params = moved if limit is None else limit(params, moved)
        if watch is not None:
            watch(norm)
    return params


def gradient_of(objective: Objective) -> Gradients:
    """The gradient of an objective, summed over images, by one backward pass."""

    def gradients(params: Mapping[str, Tensor]) -> Sequence[Tensor]:
        with torch.enable_grad():
            return torch.autograd.grad(objective(params).sum(), list(params.values()))

    return gradients
