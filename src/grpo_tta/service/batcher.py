"""Gathers the items of many requests into batches for one worker thread. Knows nothing of images or HTTP."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar, final

from grpo_tta.engine.retry import batch_or_each
from grpo_tta.service.limits import RefusedError

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Answer = TypeVar("Answer")


@final
class Places:
    """Room for a number of things; used from one event loop, so that no lock is needed."""

    def __init__(self, capacity: int, what: str) -> None:
        self.capacity, self.taken, self._what = capacity, 0, what

    @contextmanager
    def take(self, n: int) -> Iterator[None]:
        """Holds n places and gives them back however the block ends.

        Raises:
            RefusedError: `queue_full`.
        """
        if self.taken + n > self.capacity:
            raise RefusedError("queue_full", f"The service has no room for {n} more {self._what} now; try again in a moment.")
        self.taken += n
        try:
            yield
        finally:
            self.taken -= n


@final
@dataclass(eq=False)
class _Job(Generic[Key, Item, Answer]):
    key: Key
    item: Item
    done: asyncio.Future[Answer]


@final
class Batcher(Generic[Key, Item, Answer]):
    """Runs `work(key, items) -> answers` on one thread, with items of one key gathered from whoever waits.

    While a batch is in work the next one gathers, so a busy service has full batches and an idle one does not wait.
    """

    def __init__(
        self,
        work: Callable[[Key, list[Item]], Sequence[Answer]],
        *,
        batch: int,
        gather_seconds: float = 0.003,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        """
        Args:
            work: one answer per item, in order. Called on the worker thread only.
            batch: most items of a call.
            gather_seconds: how long a batch that is not full waits for company.
            on_batch: is called on the event loop with the size of each batch.
        """
        self._work, self._batch, self._gather, self._on_batch = work, batch, gather_seconds, on_batch
        self._waiting: deque[_Job[Key, Item, Answer]] = deque()
        self._arrived = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grpo-tta-batch")
        self._loop_task: asyncio.Task[None] | None = None
        self.in_work = 0

    @property
    def waiting(self) -> int:
        """Items that no batch has taken yet."""
        return len(self._waiting)

    def start(self) -> None:
        """Begins to work; to be called on the event loop."""
        self._loop_task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Takes nothing new, finishes what was accepted, and stops the thread."""
        self._closing = True
        self._arrived.set()
        if self._loop_task is not None:
            await self._loop_task
        self._thread.shutdown()

    async def answers(self, key: Key, items: Sequence[Item]) -> list[Answer]:
        """One answer per item. Where the caller is cancelled, items that no batch has taken yet leave the queue.

        Raises:
            RefusedError: `shutting_down`.
            Exception: whatever `work` raised for one of these items alone.
        """
        if self._closing:
            raise RefusedError("shutting_down", "The service is shutting down; ask another one, or later.")
        loop = asyncio.get_running_loop()
        jobs: list[_Job[Key, Item, Answer]] = [_Job(key, item, loop.create_future()) for item in items]
        self._waiting.extend(jobs)
        self._arrived.set()
        try:
            return list(await asyncio.gather(*(job.done for job in jobs)))
        finally:
            left = [job for job in jobs if not job.done.done() or job.done.cancelled()]
            for job in left:
                job.done.cancel()
                if job in self._waiting:
                    self._waiting.remove(job)

    async def _run(self) -> None:
        while True:
            if not self._waiting:
                if self._closing:
                    return
                self._arrived.clear()
                await self._arrived.wait()
                if len(self._waiting) < self._batch and not self._closing:
                    await asyncio.sleep(self._gather)
                continue
            jobs = self._take()
            self.in_work = len(jobs)
            self._on_batch(len(jobs))
            outcomes = await asyncio.get_running_loop().run_in_executor(self._thread, self._outcomes, jobs)
            self.in_work = 0
            for job, outcome in zip(jobs, outcomes, strict=True):
                if job.done.done():  # the client left while its item was in work
                    continue
                if isinstance(outcome, _Failure):
                    job.done.set_exception(outcome.error)
                else:
                    job.done.set_result(outcome)

    def _take(self) -> list[_Job[Key, Item, Answer]]:
        """The longest waiting item and the next ones of its key, as many as fit into a batch."""
        key = self._waiting[0].key
        taken: list[_Job[Key, Item, Answer]] = []
        left: deque[_Job[Key, Item, Answer]] = deque()
        while self._waiting:
            job = self._waiting.popleft()
            (taken if job.key == key and len(taken) < self._batch else left).append(job)
        self._waiting = left
        return taken

    def _outcomes(self, jobs: list[_Job[Key, Item, Answer]]) -> list[Answer | _Failure]:
        """On the worker thread. A batch that fails is done again item by item, so that no one fails for a neighbour."""
        key = jobs[0].key

        def work(some: Sequence[_Job[Key, Item, Answer]]) -> list[Answer]:
            return list(self._work(key, [job.item for job in some]))

        outcomes: list[Answer | _Failure] = []
        for _, found in batch_or_each(jobs, work):
            # an exception is handed to whoever asked; the worker must outlive it
            outcomes += [_Failure(found)] if isinstance(found, Exception) else found
        return outcomes


@final
@dataclass(frozen=True)
class _Failure:
    error: Exception
