"""The batch at once, then item by item."""

from __future__ import annotations

from collections.abc import Sequence

from grpo_tta.engine.retry import batch_or_each


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
