"""How far a command has come: a bar on a terminal, else a line every half minute; and its log on standard error."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Protocol, final

from grpo_tta.cli.options import say

log = logging.getLogger("grpo_tta")
EVERY = 30.0
"""Seconds from one line to the next where there is no terminal."""


@final
class _StandardError(logging.Handler):
    """Looks standard error up each time: a bar puts itself before it, so that lines stand above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


@contextlib.contextmanager
def logging_to_stderr(*, verbose: bool, quiet: bool) -> Iterator[None]:
    """Inside, `grpo_tta` logs to standard error: all with `verbose`, errors alone with `quiet`."""
    handler, level, propagate = _StandardError(), log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if verbose else logging.ERROR if quiet else logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


class Advance(Protocol):
    """To be called after each image, or after several with their count."""

    def __call__(self, count: int = 1) -> None: ...


@contextlib.contextmanager
def progress(total: int, *, clock: Callable[[], float] = time.monotonic) -> Iterator[Advance]:
    """Gives a function to call after each image. Silent where the log is."""
    if not log.isEnabledFor(logging.INFO):
        yield lambda count=1: None
    elif sys.stderr.isatty():
        with _bar(total, clock) as advance:
            yield advance
    else:
        yield Lines(total, clock).advance


@final
class Lines:
    """A line of the log every `EVERY` seconds."""

    def __init__(self, total: int, clock: Callable[[], float]) -> None:
        self._total, self._clock, self._count = total, clock, 0
        self._began = self._last = clock()

    def advance(self, count: int = 1) -> None:
        self._count += count
        now = self._clock()
        if now - self._last >= EVERY and self._count < self._total:
            self._last = now
            pace = self._count / (now - self._began)
            left = timedelta(seconds=round((self._total - self._count) / pace))
            log.info(f"{self._count:,} of {self._total:,} images, {show_rate(pace)}, {left} left")


@contextlib.contextmanager
def _bar(total: int, clock: Callable[[], float]) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(bar_width=16),  # all of it fits 80 columns
        MofNCompleteColumn(),
        TextColumn("images, {task.fields[pace]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )
    # Rows that go to the same terminal are printed above the bar; those that go elsewhere must not pass through it.
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        line, began = bar.add_task("", total=total, pace="starting", left=""), clock()
        done = 0

        def advance(count: int = 1) -> None:
            nonlocal done
            done += count
            pace = done / max(clock() - began, 1e-9)
            left = timedelta(seconds=round((total - done) / pace))
            bar.update(line, completed=done, pace=show_rate(pace), left=f"{left} left")

        yield advance


def show_rate(per_second: float) -> str:
    """`12.3 per second`."""
    return f"{per_second:,.0f} per second" if per_second >= 100 else f"{per_second:.3g} per second"
