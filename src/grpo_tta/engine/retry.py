"""One bad item must not spoil the others of its batch."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, TypeVar

import torch

from grpo_tta.engine.ahead import load_ahead
from grpo_tta.errors import UserError, sentence

T = TypeVar("T")
R = TypeVar("R")
OnError = Literal["raise", "return"]


def batch_or_each(items: Sequence[T], work: Callable[[Sequence[T]], R]) -> Iterator[tuple[Sequence[T], R | Exception]]:
    """Does the work on all items at once; where that raises, on each item alone, and where memory ran out, on each half.

    Yields:
        The items of a piece of work with its result, or with the exception of an item that fails alone. Nothing for no items.
    """
    if not items:
        return
    size = 1
    try:
        result = work(items)
    except Exception as error:
        if len(items) == 1:
            yield items, error
            return
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            size = -(-len(items) // 2)
    else:
        yield items, result
        return
    # outside of the handler: what the error holds of the work is free again
    for first in range(0, len(items), size):
        yield from batch_or_each(items[first : first + size], work)


def answer_each(
    loads: Iterable[Callable[[], T]],
    work: Callable[[Sequence[T]], Sequence[R]],
    batch: int,
    errors: OnError,
    workers: int = 0,
) -> Iterator[R | UserError]:
    """Loads items and does the work on them, a batch at a time: one answer per item, in order, as soon as its batch is done.

    No more than a batch of items is ever loaded, or two with workers: one in work and the next one.

    Args:
        loads: each loads one item.
        work: one result per item of a batch.
        batch: most items of a batch.
        workers: threads that load the next batch while one is in work.
        errors: `raise` ends at the first item that fails, after the answers before it; `return` yields its error in its place.

    Yields:
        A result; with `return` also the error of an item that fails, as a `UserError`.
    """
    with contextlib.closing(load_ahead(loads, workers, batch)) as waiting:
        while some := list(itertools.islice(waiting, batch)):
            yield from _answer_batch(some, work, errors)
            some.clear()  # nothing of this batch is held while the next one is loaded


def _answer_batch(
    some: Sequence[Callable[[], T]], work: Callable[[Sequence[T]], Sequence[R]], errors: OnError
) -> Iterator[R | UserError]:
    loaded: list[tuple[T | None, Exception | None]] = []
    for load in some:
        try:
            loaded.append((load(), None))
        except Exception as error:
            loaded.append((None, error))
            if errors == "raise":
                break
    items = [item for item, failed in loaded if failed is None]
    results = _results(items, work, errors)  # type: ignore[arg-type]  # an item without an error is there
    for _, failed in loaded:
        found = next(results) if failed is None else failed
        if isinstance(found, Exception):
            if errors == "raise":
                raise found
            found = _as_user_error(found)
        yield found


def _results(items: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]], errors: OnError) -> Iterator[R | Exception]:
    if errors == "raise":
        yield from work(items) if items else ()
        return
    for _, found in batch_or_each(items, work):
        if isinstance(found, Exception):
            yield found
        else:
            yield from found


def _as_user_error(error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    made = UserError(sentence(error))
    made.__cause__ = error
    return made
