"""The iterator that carries a state: what it hands out, what it keeps, and how it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from grpo_tta.engine.interface import State
from grpo_tta.engine.stream import Stream
from grpo_tta.errors import UserError


def load(number: int) -> int:
    if number < 0:
        raise UserError(f"{number} is below zero.")
    return number


def running_sums(items: Sequence[int], state: State) -> tuple[list[int], State]:
    """Each answer is the sum of everything before its minibatch, plus the item."""
    before = int(state.get("sum", torch.tensor(0)))
    return [before + item for item in items], {"sum": torch.tensor(before + sum(items))}


def stream_of(numbers: Iterable[int], errors: str = "raise", key: str = "a", workers: int = 0) -> Stream[int | UserError]:
    loads: Iterable[Callable[[], int]] = (partial(load, number) for number in numbers)
    return Stream(loads, running_sums, 3, key, errors, workers)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_state_goes_from_minibatch_to_minibatch(workers: int) -> None:
    # [1, 2, 3] with 0 before, [4, 5, 6] with 6 before, [7] with 21 before
    assert list(stream_of(range(1, 8), workers=workers)) == [1, 2, 3, 10, 11, 12, 28]


def test_the_state_is_that_of_the_answers_handed_out() -> None:
    stream = stream_of(range(1, 8))
    assert stream.answered == 0
    assert set(stream.state_dict()) == {"stream.key", "stream.answered"}
    seen = []
    for _ in stream:
        state = stream.state_dict()
        seen.append((stream.answered, int(state.get("sum", torch.tensor(0)))))
    # a minibatch counts with its last answer, the last and smaller one too
    assert seen == [(0, 0), (0, 0), (3, 6), (3, 6), (3, 6), (6, 21), (7, 28)]


@pytest.mark.parametrize("stopped_after", range(8))
def test_a_killed_stream_goes_on_to_the_same_answers(tmp_path: Path, stopped_after: int) -> None:
    whole = list(stream_of(range(1, 8)))
    first = stream_of(range(1, 8))
    for _ in range(stopped_after):
        next(first)
    save_file(first.state_dict(), tmp_path / "state.safetensors")
    state = load_file(tmp_path / "state.safetensors")
    second = stream_of(range(1 + int(state["stream.answered"]), 8))
    second.load_state_dict(state)
    assert list(second) == whole[int(state["stream.answered"]) :]
    assert second.answered == 7


def test_an_item_that_fails_takes_its_place_and_teaches_nothing() -> None:
    answers = list(stream_of([1, -1, 2, 3], "return"))
    assert [str(answer) if isinstance(answer, UserError) else answer for answer in answers] == [1, "-1 is below zero.", 2, 6]
    stream = stream_of([1, 2, 3, 4, -1])
    assert [next(stream) for _ in range(4)] == [1, 2, 3, 10]
    with pytest.raises(UserError, match="below zero"):
        next(stream)
    assert stream.answered == 3


def test_a_reset_forgets_from_the_next_minibatch_on() -> None:
    stream = stream_of(range(1, 8))
    assert [next(stream) for _ in range(4)] == [1, 2, 3, 10]
    stream.reset()
    assert list(stream) == [11, 12, 7]
    assert stream.answered == 1


def test_states_of_other_streams_are_refused() -> None:
    stream = stream_of([1])
    with pytest.raises(UserError, match="no state of a stream"):
        stream.load_state_dict({"sum": torch.tensor(1)})
    with pytest.raises(UserError, match="another model, labels"):
        stream.load_state_dict(stream_of([1], key="b").state_dict())


def test_a_state_is_a_copy() -> None:
    stream = stream_of(range(1, 8))
    assert [next(stream) for _ in range(3)] == [1, 2, 3]
    state = stream.state_dict()
    state["sum"].zero_()
    assert next(stream) == 10
    stream.load_state_dict(kept := stream.state_dict())
    kept["sum"].zero_()
    assert int(stream.state_dict()["sum"]) == 6
