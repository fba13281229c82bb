"""Items loaded by threads, a bounded number ahead of whoever works on them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from grpo_tta.errors import UserError

T = TypeVar("T")
_MOST = 8
"""Threads that are used where nobody says how many: one decodes dozens of photographs per second."""


def check_workers(workers: int | None) -> int:
    """How many threads load ahead; None chooses by the cores that this process may use, and leaves one to the model.

    Raises:
        UserError: below zero.
    """
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(_MOST, max(1, cores - 1))
    if workers < 0:
        raise UserError(f"{workers} workers cannot read images; set workers to 0 (none beside the model) or more.")
    return workers


def load_ahead(loads: Iterable[Callable[[], T]], workers: int, most: int) -> Generator[Callable[[], T]]:
    """The same loads in the same order, begun before they are called.

    Reading and decoding release Python's lock, so threads do. They share the model's memory, need no fork, and end with the
    iterator. Where that is closed early, a load that was not begun is dropped.

    Args:
        loads: each loads one item. They are taken in the caller's thread, and called in one of the workers.
        workers: threads; 0 gives the loads back as they are.
        most: loads that are begun and not yet given back.

    Yields:
        Calls that wait for an item, or raise what its load raised.
    """
    if workers == 0:
        yield from loads
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="grpo-tta-load")
    begun: deque[Callable[[], T]] = deque()
    try:
        for load in loads:
            begun.append(pool.submit(load).result)
            if len(begun) > most:
                yield begun.popleft()
        while begun:
            yield begun.popleft()
    except BaseException:  # nobody wants the others: the iterator was closed, or a signal came
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown(wait=False)  # the last ones were given back and not called yet
