"""The batcher, with gates in place of a model: what is gathered, who fails, who leaves, what a shutdown finishes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from grpo_tta.service.batcher import Batcher, Places
from grpo_tta.service.limits import RefusedError


class Worker:
    """Doubles numbers, remembers its batches, and waits at a gate."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.gate, self.began = threading.Event(), threading.Event()

    def __call__(self, key: str, items: list[int]) -> Sequence[int]:
        self.batches.append((key, list(items)))
        self.began.set()
        self.gate.wait(30)
        if 13 in items:
            raise RuntimeError("thirteen")
        return [2 * item for item in items]


def run(story: Callable[[Batcher[str, int, int], Worker], object], batch: int = 4) -> Worker:
    worker = Worker()

    async def main() -> None:
        batcher: Batcher[str, int, int] = Batcher(worker, batch=batch, gather_seconds=0)
        batcher.start()
        try:
            await story(batcher, worker)
        finally:
            worker.gate.set()
            await batcher.close()

    asyncio.run(main())
    return worker


async def until(true: Callable[[], bool]) -> None:
    for _ in range(3000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came about")


async def blocked(batcher: Batcher[str, int, int], worker: Worker) -> asyncio.Task[list[int]]:
    """One item in work, waiting at the gate."""
    first = asyncio.create_task(batcher.answers("a", [0]))
    await until(worker.began.is_set)
    return first


def test_waiting_requests_are_gathered_by_key_in_order() -> None:
    async def story(batcher: Batcher[str, int, int], worker: Worker) -> None:
        first = await blocked(batcher, worker)
        rest = [
            asyncio.create_task(batcher.answers(key, items))
            for key, items in (("a", [1]), ("b", [2]), ("a", [3, 4]), ("b", [5]), ("a", [6, 7]))
        ]
        await until(lambda: batcher.waiting == 7)
        worker.gate.set()
        assert await first == [0]
        assert [await task for task in rest] == [[2], [4], [6, 8], [10], [12, 14]]

    assert run(story).batches == [("a", [0]), ("a", [1, 3, 4, 6]), ("b", [2, 5]), ("a", [7])]


def test_a_failure_hits_its_own_request_alone() -> None:
    async def story(batcher: Batcher[str, int, int], worker: Worker) -> None:
        first = await blocked(batcher, worker)
        good, bad = (asyncio.create_task(batcher.answers("a", [number])) for number in (1, 13))
        await until(lambda: batcher.waiting == 2)
        worker.gate.set()
        assert (await first, await good) == ([0], [2])
        with pytest.raises(RuntimeError, match="thirteen"):
            await bad
        assert await batcher.answers("a", [5]) == [10]  # and the worker lives on

    assert run(story).batches == [("a", [0]), ("a", [1, 13]), ("a", [1]), ("a", [13]), ("a", [5])]


def test_who_leaves_frees_the_queue() -> None:
    async def story(batcher: Batcher[str, int, int], worker: Worker) -> None:
        first = await blocked(batcher, worker)
        leaving, staying = (asyncio.create_task(batcher.answers("a", [number])) for number in (1, 2))
        await until(lambda: batcher.waiting == 2)
        leaving.cancel()
        await until(lambda: batcher.waiting == 1)
        first.cancel()  # its item is in work already; the outcome is dropped
        worker.gate.set()
        assert await staying == [4]

    assert run(story).batches == [("a", [0]), ("a", [2])]


def test_closing_finishes_what_was_accepted_and_takes_nothing_new() -> None:
    async def story(batcher: Batcher[str, int, int], worker: Worker) -> None:
        first = await blocked(batcher, worker)
        second = asyncio.create_task(batcher.answers("b", [1]))
        await until(lambda: batcher.waiting == 1)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(RefusedError, match="shutting down"):
            await batcher.answers("a", [9])
        worker.gate.set()
        await closing
        assert (await first, await second) == ([0], [2])

    run(story)


def test_places_are_given_back_however_the_block_ends() -> None:
    places = Places(3, "images")
    with places.take(2):
        with pytest.raises(RefusedError, match="no room for 2 more images"), places.take(2):
            pass
        with places.take(1):
            assert places.taken == 3
    with pytest.raises(ZeroDivisionError), places.take(3):
        raise ZeroDivisionError
    assert places.taken == 0
