"""The batch at once, then item by item."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch

from grpo_tta.engine.retry import answer_each, batch_or_each
from grpo_tta.errors import UserError


def doubled(items: Sequence[int]) -> list[int]:
    if 0 in items:
        raise ValueError("zero")
    return [2 * item for item in items]


def test_a_good_batch_is_worked_on_once() -> None:
    assert list(batch_or_each([1, 2], doubled)) == [([1, 2], [2, 4])]


def test_a_bad_item_leaves_the_others_their_results() -> None:
    calls: list[Sequence[int]] = []

    def watched(items: Sequence[int]) -> list[int]:
        calls.append(items)
        return doubled(items)

    first, second, third = batch_or_each([1, 0, 2], watched)
    assert first == ([1], [2])
    assert third == ([2], [4])
    assert second[0] == [0]
    assert isinstance(second[1], ValueError)
    assert calls == [[1, 0, 2], [1], [0], [2]]


def test_one_item_that_fails_is_not_tried_again() -> None:
    calls: list[Sequence[int]] = []

    def fails(items: Sequence[int]) -> None:
        calls.append(items)
        raise ValueError("no")

    ((items, outcome),) = batch_or_each([3], fails)
    assert items == [3]
    assert isinstance(outcome, ValueError)
    assert calls == [[3]]


@pytest.mark.parametrize("error", [MemoryError("no room"), torch.OutOfMemoryError("CUDA out of memory")])
def test_where_memory_runs_out_the_batch_is_halved(error: Exception) -> None:
    calls: list[Sequence[int]] = []

    def at_most_two(items: Sequence[int]) -> list[int]:
        calls.append(items)
        if len(items) > 2 or 0 in items:
            raise error
        return doubled(items)

    found = list(batch_or_each([1, 2, 3, 4, 0], at_most_two))
    assert found == [([1, 2], [2, 4]), ([3], [6]), ([4], [8]), ([0], error)]
    assert calls == [[1, 2, 3, 4, 0], [1, 2, 3], [1, 2], [3], [4, 0], [4], [0]]


def test_no_items_are_no_work() -> None:
    assert list(batch_or_each([], doubled)) == []


def test_an_interruption_is_not_an_item_that_fails() -> None:
    def interrupted(items: Sequence[int]) -> None:
        raise KeyboardInterrupt

    try:
        list(batch_or_each([1, 2], interrupted))
    except KeyboardInterrupt:
        return
    raise AssertionError("it was swallowed")


def loads(items: Sequence[int], log: list[int]) -> list[Callable[[], int]]:
    def load(item: int) -> int:
        log.append(item)
        if item < 0:
            raise UserError(f"{item} is no item")
        return item

    return [partial(load, item) for item in items]


def test_one_answer_per_item_in_order_whatever_fails() -> None:
    found = list(answer_each(loads([1, -2, 0, 3, 4], []), doubled, 3, "return"))
    assert [answer if isinstance(answer, int) else str(answer) for answer in found] == [
        2,
        "-2 is no item",
        "ValueError: zero",
        6,
        8,
    ]
    assert all(isinstance(answer, int | UserError) for answer in found)


def test_a_batch_is_loaded_when_it_is_needed() -> None:
    log: list[int] = []
    answers = answer_each(loads([1, 2, 3], log), doubled, 2, "return")
    assert log == []
    assert next(answers) == 2
    assert log == [1, 2]
    assert list(answers) == [4, 6]


def test_the_first_failure_ends_it_after_the_answers_before_it() -> None:
    log: list[int] = []
    answers = answer_each(loads([1, 2, -3, 4], log), doubled, 4, "raise")
    assert [next(answers), next(answers)] == [2, 4]
    with pytest.raises(UserError, match="-3 is no item"):
        next(answers)
    assert log == [1, 2, -3]
    with pytest.raises(ValueError, match="zero"):
        list(answer_each(loads([1, 0], []), doubled, 2, "raise"))
