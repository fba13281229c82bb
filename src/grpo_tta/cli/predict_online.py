"""`grpo-tta predict --online`: one stream over all images, whose state is kept in a file. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from grpo_tta.classifier import GRPOTTA, Prediction, classify_stream
from grpo_tta.cli.predict_options import assignments_of
from grpo_tta.cli.progress import log
from grpo_tta.errors import UserError, as_text, counted, sentence
from grpo_tta.images.inputs import ImageLike
from grpo_tta.images.remote import Place, place_of
from grpo_tta.method.online_settings import ONLINE, StreamSettings
from grpo_tta.method.online_shift import restarts_of
from grpo_tta.method.parse import change_settings

if TYPE_CHECKING:
    from grpo_tta.cli.predict_options import PredictOptions
    from grpo_tta.cli.predictions import FolderOutput

STATE = "state.safetensors"
"""In the folder of `--out`."""
_IMAGES = "predict.images"


def stream_settings(options: PredictOptions) -> StreamSettings:
    """
    Raises:
        UserError: options that a stream does not take, or settings that do not fit.
    """
    if options.preset != "default":
        raise UserError("--online has settings of its own; leave out --preset, and change single ones by --set.")
    if options.embeddings is not None:
        raise UserError("--embeddings are of images that are adapted to alone; leave out --online or --embeddings.")
    return replace(ONLINE, grpo=change_settings(ONLINE.grpo, assignments_of(options)))


@final
class OnlineRun:
    """The stream of one command.

    With `--out` the folder holds the state after a part of the images whose rows are written. A resumed run takes it up, and
    computes those images again that have a row and are not in the state. So a kill at any time changes no answer.
    """

    def __init__(
        self,
        classifier: GRPOTTA,
        settings: StreamSettings,
        paths: Sequence[Place],
        file: Path | None,
        folder: FolderOutput | None,
    ) -> None:
        """
        Args:
            settings: of the stream.
            paths: all images, those with rows among them.
            file: `--state`: the stream begins with it where it is there, and it is written at the end.
            folder: `--out`.

        Raises:
            UserError: a state that is damaged or another stream's, or rows that are not those of the first images.
        """
        self._paths, self._file, self._folder = paths, file, folder
        self._rows = self._check_order()
        state, self._first = self._begin()

        def load(number: int) -> ImageLike:
            return place_of(paths[number])

        self._stream = classify_stream(classifier, load, range(self._first, len(paths)), settings)
        if state is not None:
            self._stream.load_state_dict(state)
        self._before, self._restarts = self._stream.answered, restarts_of(state or {})
        if folder is not None:
            self._save()  # from now on the folder goes on from here, whatever becomes of --state

    def answers(self) -> Iterator[tuple[Place, Prediction | str]]:
        """Each image that has no row yet, in order, with its answer or error."""
        for number, found in enumerate(self._stream, self._first):
            if number >= self._rows:
                yield self._paths[number], sentence(found) if isinstance(found, UserError) else found

    def written(self, number: int, answer: Prediction | str) -> bool:
        """Keeps the state where all rows of the folder are on disk. A signal counts where a minibatch ends."""
        if self._folder is not None and not self._folder.waiting:
            self._save()
        return self._images == self._rows + number

    def finish(self) -> None:
        """Keeps the state, and says whether the stream forgot on the way."""
        learnt = self._stream.state_dict()
        if self._folder is not None:
            self._save()
        if self._file is not None:
            _save(self._file, learnt)
            log.info(f"{self._file}: the stream after {counted(self._stream.answered, 'image')}.")
        if times := restarts_of(learnt) - self._restarts:
            log.info(f"The images changed their look {counted(times, 'time')}; what was learnt before was forgotten.")

    @property
    def _images(self) -> int:
        """How many of the command's images are in the state."""
        return self._first + self._stream.answered - self._before

    def _save(self) -> None:
        assert self._folder is not None
        _save(self._folder.folder / STATE, {_IMAGES: torch.tensor(self._images), **self._stream.state_dict()})

    def _check_order(self) -> int:
        """How many rows there are; they must be those of the first images."""
        if self._folder is None:
            return 0
        done = self._folder.done
        if {as_text(str(path)) for path in self._paths[: len(done)]} != done:
            raise UserError(
                f"A stream goes on where it stopped: name the {counted(len(done), 'image')} with rows in {self._folder.folder} "
                "first and in the same order, and new ones behind them."
            )
        return len(done)

    def _begin(self) -> tuple[dict[str, Tensor] | None, int]:
        """The state to begin with, and how many of the images are in it."""
        if self._folder is not None:
            kept = self._folder.folder / STATE
            if kept.exists():
                state = _load(kept)
                images = int(state.pop(_IMAGES, torch.tensor(0)))
                if images > self._rows:
                    raise UserError(f"{kept} is ahead of the rows beside it; name another --out.")
                return state, images
            if self._rows:
                raise UserError(f"{self._folder.folder} holds rows of a stream without its {STATE}; name another --out.")
        if self._file is not None and self._file.exists():
            return _load(self._file), 0
        return None, 0


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: the state cannot be read ({error}); name another file, or remove it to begin anew.") from None


def _save(path: Path, state: dict[str, Tensor]) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, partial)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: the state cannot be written ({error}); make room there, or name another file.") from None
