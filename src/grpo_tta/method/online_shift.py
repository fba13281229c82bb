"""Whether the images of a stream changed their look, by two statistics of their pixels. A change is a reason to start afresh.

What was learnt under noise, and the favourites of the model there, do not help in fog. Two numbers tell such conditions apart
and say little of what is in an image: how much of its brightness is fine detail, and how far its brightness is spread. The
means of the last images are compared with those of all images before, in standard errors. No pass of the model is needed.

Sizes: N images of a minibatch, S pixels, W images of the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta.config.checks import check_at_least, check_positive
from grpo_tta.engine.interface import State

_SHIFT = "shift."
_LEAST = 1e-4  # of the spread of a plain image, in units of the model's normalisation


@final
@dataclass(frozen=True)
class Watched:
    """What the alarm carries along a stream, on the CPU: some devices know no double precision.

    Attributes:
        recent: the statistics of the last images, of at most W of them, `[<= W, 2]`.
        sums, squares: of those of all images before, `[2]` each, in double precision.
        count: how many these are.
        restarts: how often the stream has begun afresh.
    """

    recent: Tensor
    sums: Tensor
    squares: Tensor
    count: float
    restarts: int

    def state(self) -> State:
        held = {"recent": self.recent, "sums": self.sums, "squares": self.squares}
        numbers = {"count": torch.tensor(self.count), "restarts": torch.tensor(self.restarts)}
        return {_SHIFT + name: value for name, value in (held | numbers).items()}


def watched_of(state: State) -> Watched:
    """What a state holds; one without it begins with nothing."""
    if _SHIFT + "recent" not in state:
        return _nothing_but(torch.zeros(0, 2, dtype=torch.float64), 0)
    recent, sums, squares = (state[_SHIFT + name].cpu() for name in ("recent", "sums", "squares"))
    return Watched(recent, sums, squares, float(state[_SHIFT + "count"]), int(state[_SHIFT + "restarts"]))


def _nothing_but(recent: Tensor, restarts: int) -> Watched:
    """No image before the recent ones. Nothing is shared, so that the state can be saved as it is."""
    return Watched(recent, torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64), 0.0, restarts)


def restarts_of(state: State) -> int:
    """How often the stream of this state has begun afresh."""
    return int(state.get(_SHIFT + "restarts", 0))


@final
@dataclass(frozen=True)
class ShiftAlarm:
    """Compares the last images of a stream with those before.

    Attributes:
        errors: how many standard errors one of the two means has to move.
        window: W, the last images. There is no alarm before 2 W.
    """

    errors: float = 8.0
    window: int = 32

    def __post_init__(self) -> None:
        check_positive("errors", self.errors)
        check_at_least("window", self.window, 2)

    def __call__(self, views: Tensor, watched: Watched) -> tuple[bool, Watched]:
        """Whether the look has changed with this minibatch, and what to carry on: after an alarm this minibatch alone.

        Args:
            views: view 0 of the N images, `[N, 3, S, S]`.
        """
        new = statistics(views).cpu().double()
        recent = torch.cat([watched.recent, new])
        leaving, recent = recent[: -self.window], recent[-self.window :]
        sums, squares = watched.sums + leaving.sum(0), watched.squares + leaving.square().sum(0)
        count = watched.count + len(leaving)
        if count >= self.window and float(moved(recent, sums, squares, count).max()) > self.errors:
            return True, _nothing_but(new[-self.window :], watched.restarts + 1)
        return False, Watched(recent, sums, squares, count, watched.restarts)


def statistics(views: Tensor) -> Tensor:
    """Logarithms of the mean size of the Laplacian of an image's brightness, and of its standard deviation: `[N, 2]`."""
    brightness = views.float().mean(1, keepdim=True)  # [N, 1, S, S]
    laplacian = brightness.new_tensor([[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]])[None, None]
    detail, spread = F.conv2d(brightness, laplacian).abs().mean((1, 2, 3)), brightness.std((1, 2, 3))
    return torch.stack([detail, spread], dim=1).clamp_min(_LEAST).log()


def moved(recent: Tensor, sums: Tensor, squares: Tensor, count: float) -> Tensor:
    """By how many standard errors the means of the recent images differ from those before, each statistic alone: `[2]`."""
    before = sums / count
    var_before = (squares / count - before.square()).clamp_min(1e-12)
    var_recent = torch.maximum(recent.var(0), var_before)
    return (recent.mean(0) - before).abs() / (var_before / count + var_recent / len(recent)).sqrt()
