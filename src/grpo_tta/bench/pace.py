"""How fast images are answered and what is left to do, as bars and lines show it. Imports nothing heavy."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import final

_log = logging.getLogger("grpo_tta")
EVERY = 30.0
"""Seconds from one line to the next where there is no terminal."""


def show_rate(per_second: float) -> str:
    """`12.3 per second`."""
    return f"{per_second:,.0f} per second" if per_second >= 100 else f"{per_second:.3g} per second"


@final
class Pace:
    """
    Attributes:
        total: images in all.
        count: those that are done, in an earlier run or in this one.
    """

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.count = total, 0
        self._clock, self._began, self._here = clock, clock(), 0

    def advance(self, images: int = 1, *, before: bool = False) -> None:
        """Counts images; those of an earlier run (`before`) say nothing about the rate."""
        self.count += images
        self._here += 0 if before else images

    def rate(self) -> str:
        """`12.3 per second`; `starting` before the first image of this run."""
        return show_rate(self._per_second()) if self._here else "starting"

    def left(self) -> str:
        """`0:05:12 left`; empty before the first image of this run."""
        if not self._here:
            return ""
        return f"{timedelta(seconds=round((self.total - self.count) / self._per_second()))} left"

    def _per_second(self) -> float:
        return self._here / max(self._clock() - self._began, 1e-9)


@final
class Lines:
    """A line every `EVERY` seconds."""

    def __init__(
        self, total: int, clock: Callable[[], float] = time.monotonic, write: Callable[[str], None] = _log.info
    ) -> None:
        self._pace, self._clock, self._write = Pace(total, clock), clock, write
        self._last = clock()

    def advance(self, images: int = 1, *, before: bool = False) -> None:
        pace, now = self._pace, self._clock()
        pace.advance(images, before=before)
        if now - self._last >= EVERY and pace.count < pace.total and pace.left():
            self._last = now
            self._write(f"{pace.count:,} of {pace.total:,} images, {pace.rate()}, {pace.left()}")
