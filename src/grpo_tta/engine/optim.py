"""Gradient ascent on per-image parameters: elementwise state, norms and step lengths per image, never over the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor

from grpo_tta.config.checks import check_at_least, check_positive

_BETAS, _EPS = (0.9, 0.999), 1e-8


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """`[B]` shaped to broadcast over `like`, `[B, ...]`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Euclidean norm over all parameters of each image: tensors `[B, ...]` -> `[B]`."""
    squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients])
    return squares.sum(0).sqrt()


class Optimizer(Protocol):
    """What a step is made of. `start` gives the moments of one batch of episodes, dropped with it."""

    def start(self) -> Update: ...


@final
@dataclass(frozen=True)
class SGD:
    """Steps in proportion to the gradient, and so to the evidence.

    Attributes:
        learning_rate: length of a step.
        max_norm: largest norm of a gradient, per image, never over the batch; None for no clipping.
    """

    learning_rate: float = 0.3
    max_norm: float | None = 1.0

    def __post_init__(self) -> None:
        check_positive("learning_rate", self.learning_rate)
        if self.max_norm is not None:
            check_positive("max_norm", self.max_norm)

    def start(self) -> Update:
        return Update(self.learning_rate, self.max_norm, adaptive=False)


@final
@dataclass(frozen=True)
class Adam:
    """Equal-sized steps for sure and unsure images alike (arXiv 1412.6980; with decay AdamW, arXiv 1711.05101).

    Attributes:
        learning_rate: length of a step.
        max_norm: largest norm of a gradient, per image; None for no clipping.
        weight_decay: decoupled: an image that moves first shrinks its parameters by learning_rate * weight_decay.
    """

    learning_rate: float = 1e-3
    max_norm: float | None = None
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_positive("learning_rate", self.learning_rate)
        check_at_least("weight_decay", self.weight_decay, 0)
        if self.max_norm is not None:
            check_positive("max_norm", self.max_norm)

    def start(self) -> Update:
        return Update(self.learning_rate, self.max_norm, adaptive=True, weight_decay=self.weight_decay)


@final
class Update:
    """Ascends, and holds the moments of one batch of episodes."""

    def __init__(self, learning_rate: float, max_norm: float | None, *, adaptive: bool, weight_decay: float = 0.0) -> None:
        """`adaptive` divides by Adam's moments."""
        self._learning_rate, self._max_norm = learning_rate, max_norm
        self._adaptive, self._weight_decay = adaptive, weight_decay
        self._moments: dict[str, tuple[Tensor, Tensor]] = {}
        self._count = 0

    def ascend(
        self, params: Mapping[str, Tensor], gradients: Sequence[Tensor], update_mask: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One step up the gradient for the images in `update_mask` (`[B]` bool); the others stay where they are.

        A gradient that is not finite counts as zero: its image takes no step.

        Returns:
            New leaves that require a gradient, and the norm of the raw gradients, `[B]`.
        """
        norm = gradient_norm(gradients)
        moves = update_mask & norm.isfinite()
        kept = 1 - self._learning_rate * self._weight_decay * moves.to(norm)
        scale = moves.to(norm)
        if self._max_norm is not None:
            scale = scale * (self._max_norm / norm.clamp_min(1e-12)).clamp(max=1.0).nan_to_num(0.0)
        self._count += 1
        out = {}
        for (name, value), raw in zip(params.items(), gradients, strict=True):
            step = raw.nan_to_num(0.0, 0.0, 0.0) * per_image(scale, raw)
            if self._adaptive:
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


_PARAMS, _OPTIMIZER = "params.", "optimizer."


def save_shared(params: Mapping[str, Tensor], update: Update) -> dict[str, Tensor]:
    """Parameters that a whole stream shares and their optimizer's moments, as a state that can be saved."""
    state = {_PARAMS + name: value.detach() for name, value in params.items()}
    return state | {_OPTIMIZER + key: value for key, value in update.state().items()}


def load_shared(state: Mapping[str, Tensor], start: Mapping[str, Tensor], update: Update) -> dict[str, Tensor]:
    """Takes up the parameters and, in place, the optimizer where `save_shared` left them; an empty state starts afresh."""
    if not state:
        return dict(start)
    device = next(iter(start.values())).device
    kept = {key.removeprefix(_OPTIMIZER): value for key, value in state.items() if key.startswith(_OPTIMIZER)}
    update.restore({key: value.to(device) for key, value in kept.items()})
    return {name: state[_PARAMS + name].to(device).requires_grad_() for name in start}
