"""Loads begun before they are called: in order, bounded, and dropped when nobody wants them any more."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from grpo_tta.engine.ahead import check_workers, load_ahead
from grpo_tta.engine.retry import answer_each
from grpo_tta.errors import UserError


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_items_come_in_order_with_their_errors_in_their_place(workers: int) -> None:
    def load(number: int) -> int:
        if number == 3:
            raise UserError("three")
        return number

    found: list[int | str] = []
    for call in load_ahead((partial(load, number) for number in range(7)), workers, 2):
        try:
            found.append(call())
        except UserError as error:
            found.append(str(error))
    assert found == [0, 1, 2, "three", 4, 5, 6]


def test_no_more_are_begun_than_may_be() -> None:
    taken: list[int] = []

    def loads() -> Iterator[Callable[[], int]]:
        for number in range(20):
            taken.append(number)
            yield partial(int, number)

    waiting = load_ahead(loads(), 2, 4)
    assert taken == []
    assert next(waiting)() == 0
    assert taken == [0, 1, 2, 3, 4]  # the one that is given back, and four more
    assert [call() for call in waiting] == list(range(1, 20))


def test_the_last_ones_may_be_called_when_the_iterator_has_ended() -> None:
    gate = threading.Event()

    def load(number: int) -> int:
        gate.wait()
        return number

    calls = list(load_ahead((partial(load, number) for number in range(5)), 1, 9))
    gate.set()
    assert [call() for call in calls] == [0, 1, 2, 3, 4]


def test_what_was_not_begun_is_dropped_with_the_iterator() -> None:
    gate, begun = threading.Event(), threading.Event()
    log: list[int] = []

    def load(number: int) -> None:
        log.append(number)
        begun.set()
        gate.wait()

    waiting = load_ahead((partial(load, number) for number in range(9)), 1, 5)
    next(waiting)
    begun.wait()
    waiting.close()
    gate.set()
    for thread in threading.enumerate():
        if thread.name.startswith("grpo-tta-load"):
            thread.join()
    assert log == [0]


def test_the_next_batch_is_loaded_while_one_is_in_work() -> None:
    """Were it not, the work on the first batch would wait for ever."""
    loaded = [threading.Event() for _ in range(6)]

    def load(number: int) -> int:
        loaded[number].set()
        return number

    def work(numbers: object) -> list[int]:
        some = list(numbers)  # type: ignore[call-overload]
        for number in range(some[-1] + 1, min(some[-1] + 3, 6)):
            assert loaded[number].wait(60)
        return some

    assert list(answer_each((partial(load, number) for number in range(6)), work, 2, "raise", workers=1)) == list(range(6))


def test_threads_are_chosen_by_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, workers in ((1, 1), (2, 1), (4, 3), (64, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process, cores=cores: range(cores), raising=False)
        assert check_workers(None) == workers
    assert check_workers(0) == 0
    with pytest.raises(UserError, match="-1 workers cannot read"):
        check_workers(-1)
