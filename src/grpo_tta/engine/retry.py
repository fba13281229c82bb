"""One bad item must not spoil the others of its batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def batch_or_each(items: Sequence[T], work: Callable[[Sequence[T]], R]) -> Iterator[tuple[Sequence[T], R | Exception]]:
    """Does the work on all items at once; where that raises, on each item alone.

    Yields:
        The items of a piece of work with its result, or with the exception of an item that fails alone. Nothing for no items.
    """
    if not items:
        return
    try:
        result = work(items)
    except Exception as error:
        if len(items) == 1:
            yield items, error
            return
    else:
        yield items, result
        return
    for item in items:
        yield from batch_or_each([item], work)
