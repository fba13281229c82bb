"""How far a command has come: a bar on a terminal, else a line every half minute; and its log on standard error."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol, final

from grpo_tta.bench.pace import Lines, Pace
from grpo_tta.cli.options import say

log = logging.getLogger("grpo_tta")


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
    """To be called after each image, or after several with their number."""

    def __call__(self, images: int = 1) -> None: ...


@contextlib.contextmanager
def progress(total: int, *, clock: Callable[[], float] = time.monotonic) -> Iterator[Advance]:
    """Gives a function to call after each image. Silent where the log is."""
    if not log.isEnabledFor(logging.INFO):
        yield lambda images=1: None
    elif sys.stderr.isatty():
        with _bar(total, clock) as advance:
            yield advance
    else:
        yield Lines(total, clock).advance


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
        pace = Pace(total, clock)
        line = bar.add_task("", total=total, pace=pace.rate(), left="")

        def advance(images: int = 1) -> None:
            pace.advance(images)
            bar.update(line, completed=pace.count, pace=pace.rate(), left=pace.left())

        yield advance
