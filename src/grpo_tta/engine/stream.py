"""Answers along a stream: an iterator that carries a state from minibatch to minibatch and can be taken up where it stood."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast, final

import torch
from torch import Tensor

from grpo_tta.engine.ahead import load_ahead
from grpo_tta.engine.interface import State, portable
from grpo_tta.engine.retry import OnError, answer_each
from grpo_tta.errors import UserError

R = TypeVar("R")
Work = Callable[[Sequence[Any], State], tuple[Sequence[Any], State]]
"""(items of a minibatch, state) -> (one result per item, new state). The state that comes in is not modified."""

_KEY, _ANSWERED = "stream.key", "stream.answered"


@final
class Stream(Iterator[R]):
    """Answers in the order of the images, minibatch by minibatch.

    The state that `state_dict` gives is that after the last minibatch whose answers were all handed out, and `answered` counts
    the images up to there. So a stream that is taken up with that state and the images after those goes on as if it had never
    stopped.

    Attributes:
        answered: images in the state, those of the stream that `load_state_dict` took up among them, and the ones that
            could not be read.
    """

    def __init__(
        self,
        loads: Iterable[Callable[[], Any]],
        work: Work,
        size: int,
        key: str,
        errors: OnError = "raise",
        workers: int = 0,
    ) -> None:
        """
        Args:
            loads: each loads one item.
            work: on a minibatch.
            size: items of a minibatch; an item that cannot be loaded counts.
            key: says what a state belongs to; another stream's is refused.
            errors: `raise` ends at the first item that fails; `return` yields its error in its place.
            workers: threads that load the next minibatch while one is in work.
        """
        self._loads, self._work, self._size, self._errors, self._workers = loads, work, size, errors, workers
        self._key = torch.frombuffer(bytearray(key.encode()), dtype=torch.uint8)
        self._kept: State = {}  # after the last minibatch that was handed out whole
        self._state: State = {}  # after the last one that was computed
        self._loaded = 0  # how often a state was put in from outside
        self.answered = 0
        self._answers = self._iterate()

    def __next__(self) -> R:
        return next(self._answers)

    def close(self) -> None:
        """Ends the iterator, and the threads that load ahead."""
        self._answers.close()

    def state_dict(self) -> dict[str, Tensor]:
        """What the stream carries, as tensors on the CPU of its own that safetensors can save."""
        return {_KEY: self._key.clone(), _ANSWERED: torch.tensor(self.answered), **portable(self._kept)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes up a stream where `state_dict` left it. From the next minibatch on it counts.

        Raises:
            UserError: it is no such state, or one of another model, labels, settings or seed.
        """
        if _KEY not in state or _ANSWERED not in state:
            raise UserError("This is no state of a stream; give what state_dict() returned.")
        if not torch.equal(state[_KEY].cpu(), self._key):
            raise UserError(
                "This state belongs to a stream of another model, labels, templates, settings or seed; make the stream as that "
                "one was made, or begin without a state."
            )
        kept = {name: value.clone() for name, value in state.items() if name not in (_KEY, _ANSWERED)}
        self._put(kept, int(state[_ANSWERED]))

    def reset(self) -> None:
        """Back to the frozen model, with nothing remembered. From the next minibatch on it counts."""
        self._put({}, 0)

    def _put(self, state: State, answered: int) -> None:
        self._kept, self._state, self.answered = state, state, answered
        self._loaded += 1

    def _iterate(self) -> Generator[R]:
        with contextlib.closing(load_ahead(self._loads, self._workers, self._size)) as waiting:
            while some := list(itertools.islice(waiting, self._size)):
                yield from self._minibatch(some)
                some.clear()  # nothing of this minibatch is held while the next one is loaded

    def _minibatch(self, some: Sequence[Callable[[], Any]]) -> Generator[R]:
        answers = cast(Iterator[R], answer_each(some, self._adapt, len(some), self._errors))
        begun = self._loaded
        for number in range(len(some)):
            found = next(answers)
            if number == len(some) - 1 and begun == self._loaded:
                self._kept, self.answered = self._state, self.answered + len(some)
            yield found

    def _adapt(self, items: Sequence[Any]) -> Sequence[Any]:
        results, self._state = self._work(items, self._state)
        return results
