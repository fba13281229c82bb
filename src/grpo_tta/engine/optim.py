"""Gradient ascent on per-image parameters: elementwise state, norms and step lengths per image, never over the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, final

import torch
from torch import Tensor

from grpo_tta.engine.parameters import Plan
from grpo_tta.engine.policy import Policy
from grpo_tta.method import objective

Optimizer = Literal["sgd", "adam"]
_BETAS, _EPS = (0.9, 0.999), 1e-8


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """`[B]` shaped to broadcast over `like`, `[B, ...]`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Euclidean norm over all parameters of each image: tensors `[B, ...]` -> `[B]`."""
    squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients])
    return squares.sum(0).sqrt()


@final
class Update:
    """`sgd` steps in proportion to the evidence; `adam` (arXiv 1412.6980) gives equal-sized steps to sure and unsure
    images alike. Holds the moments of one batch of episodes and is dropped with it."""

    def __init__(self, optimizer: Optimizer, learning_rate: float, max_norm: float | None, weight_decay: float = 0.0) -> None:
        """`weight_decay` is decoupled (AdamW, arXiv 1711.05101): an image that moves first shrinks its parameters by
        learning_rate * weight_decay."""
        self._optimizer, self._learning_rate, self._max_norm = optimizer, learning_rate, max_norm
        self._weight_decay = weight_decay
        self._moments: dict[str, tuple[Tensor, Tensor]] = {}
        self._count = 0

    def ascend(
        self, tuned: Mapping[str, Tensor], gradients: Sequence[Tensor], stepped: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One step up the gradient for the images in `stepped` (`[B]` bool); the others stay where they are.

        A gradient that is not finite counts as zero: its image takes no step.

        Returns:
            New leaves that require a gradient, and the norm of the raw gradients, `[B]`.
        """
        norm = gradient_norm(gradients)
        moves = stepped & norm.isfinite()
        kept = 1 - self._learning_rate * self._weight_decay * moves.to(norm)
        scale = moves.to(norm)
        if self._max_norm is not None:
            scale = scale * (self._max_norm / norm.clamp_min(1e-12)).clamp(max=1.0).nan_to_num(0.0)
        self._count += 1
        out = {}
        for (name, value), raw in zip(tuned.items(), gradients, strict=True):
            step = raw.nan_to_num(0.0, 0.0, 0.0) * per_image(scale, raw)
            if self._optimizer == "adam":
                step = self._moment_ratio(name, step) * per_image(moves.to(norm), step)
            out[name] = (value.detach() * per_image(kept, value) + self._learning_rate * step).requires_grad_()
        return out, norm

    def state(self) -> dict[str, Tensor]:
        """The moments and the number of steps taken, for methods that carry them along a stream."""
        out = {"count": torch.tensor(self._count)}
        for name, (first, second) in self._moments.items():
            out |= {f"first.{name}": first, f"second.{name}": second}
        return out

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes up where `state` was taken."""
        self._count = int(state["count"])
        names = [key.removeprefix("first.") for key in state if key.startswith("first.")]
        self._moments = {name: (state[f"first.{name}"], state[f"second.{name}"]) for name in names}

    def _moment_ratio(self, name: str, gradient: Tensor) -> Tensor:
        first, second = self._moments.get(name, (torch.zeros_like(gradient), torch.zeros_like(gradient)))
        first = _BETAS[0] * first + (1 - _BETAS[0]) * gradient
        second = _BETAS[1] * second + (1 - _BETAS[1]) * gradient.square()
        self._moments[name] = (first, second)
        mean = first / (1 - _BETAS[0] ** self._count)
        deviation = (second / (1 - _BETAS[1] ** self._count)).sqrt()
        return mean / (deviation + _EPS)


_TUNED, _OPTIMIZER = "tuned.", "optimizer."


def save_shared(tuned: Mapping[str, Tensor], update: Update) -> dict[str, Tensor]:
    """Parameters that a whole stream shares and their optimizer's moments, as a state that can be saved."""
    state = {_TUNED + name: value.detach() for name, value in tuned.items()}
    return state | {_OPTIMIZER + key: value for key, value in update.state().items()}


def load_shared(state: Mapping[str, Tensor], start: Mapping[str, Tensor], update: Update) -> dict[str, Tensor]:
    """Takes up the parameters and, in place, the optimizer where `save_shared` left them; an empty state starts afresh."""
    if not state:
        return dict(start)
    device = next(iter(start.values())).device
    kept = {key.removeprefix(_OPTIMIZER): value for key, value in state.items() if key.startswith(_OPTIMIZER)}
    update.restore({key: value.to(device) for key, value in kept.items()})
    return {name: state[_TUNED + name].to(device).requires_grad_() for name in start}


@torch.no_grad()
def within_trust(
    policy: Policy,
    tokens: Tensor,
    plan: Plan,
    start: Mapping[str, Tensor],
    moved: Mapping[str, Tensor],
    reference_log_probs: Tensor,
    max_kl: float,
    halvings: int = 3,
) -> tuple[dict[str, Tensor], int]:
    """Shortens each image's step until its mean KL(pi_theta || pi_0) over the views is at most `max_kl`.

    The step is halved up to `halvings` times, each image for itself; one that is still too long is dropped
    (backtracking as in TRPO, arXiv 1502.05477).

    Args:
        tokens: `[B, M, T, W]` that enter the plan's first block.
        start, moved: parameters before and after the proposed step.
        reference_log_probs: `[B, M, C]`.

    Returns:
        The parameters kept, and how many forward passes over the M views it took.
    """
    share = torch.ones(len(tokens), device=tokens.device)
    current = dict(moved)
    for trial in range(1, halvings + 2):
        new = policy.adapted(tokens, plan, current)
        too_far = ~(objective.kl_divergence(new, reference_log_probs).mean(1) <= max_kl)  # NaN is too far, too
        if not too_far.any():
            return current, trial
        share = torch.where(too_far, 0.0 if trial == halvings + 1 else share / 2, share)
        part = {name: per_image(share, value) for name, value in moved.items()}
        current = {name: torch.where(part[name] > 0, start[name].lerp(moved[name], part[name]), start[name]) for name in moved}
        current = {name: value.detach().requires_grad_() for name, value in current.items()}
    return current, halvings + 1
