"""Which chunks of work killed the process that did them, noted on disk, so that one image cannot stop a run for good.

An exception on an image is caught where it happens. A process that is killed (by the system, when memory runs out) catches
nothing. An engine that hands its work to the next process would kill that one too, forever. So a chunk whose process died
`PATIENCE` times is done image by image. An image on which alone it died `PATIENCE` times is given up. Innocent deaths (a
machine that is taken away) cost no image: its next try succeeds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import pyarrow.fs as pafs

from grpo_tta.images.remote import filesystem

PATIENCE = 2
GAVE_UP = (
    f"The process was killed {PATIENCE} times while it adapted to this image alone; most likely memory ran out: "
    "shrink the image, or give the actors more."
)


@final
@dataclass
class _Note:
    """Deaths over a chunk of work, over images tried alone, and the image being tried alone."""

    deaths: int = 0
    alone: dict[str, int] = field(default_factory=dict)
    trying: str | None = None


@final
class Attempts:
    """Notes of one run, a small file for each chunk in progress."""

    def __init__(self, folder: str) -> None:
        self._fs, self._folder = filesystem(folder)
        self._fs.create_dir(self._folder, recursive=True)

    def run(self, image_ids: Sequence[str], work: Callable[[slice, bool], Any]) -> list[Any]:
        """Does a chunk of work: at once, or image by image where that has killed processes before.

        Args:
            image_ids: of the chunk; they name its note.
            work: (images, given up) -> result. Given-up images must not be touched.
        """
        path = f"{self._folder}/{hashlib.blake2b(chr(10).join(image_ids).encode(), digest_size=16).hexdigest()}.json"
        note = self._begin(path)
        if note.deaths < PATIENCE:
            results = [work(slice(0, len(image_ids)), False)]
        else:
            results = []
            for i, name in enumerate(image_ids):
                given_up = note.alone.get(name, 0) >= PATIENCE
                if not given_up:
                    note.trying = name
                    self._write(path, note)
                results.append(work(slice(i, i + 1), given_up))
        self._fs.delete_file(path)
        return results

    def _begin(self, path: str) -> _Note:
        note = _Note()
        if self._fs.get_file_info(path).type == pafs.FileType.File:  # the process that wrote it died
            with self._fs.open_input_stream(path) as stream:
                text = stream.read()
            note = _Note(**json.loads(text)) if text else note
            note.deaths += 1
            if note.trying is not None:
                note.alone[note.trying] = note.alone.get(note.trying, 0) + 1
                note.trying = None
        self._write(path, note)
        return note

    def _write(self, path: str, note: _Note) -> None:
        content = {"deaths": note.deaths, "alone": note.alone, "trying": note.trying}
        with self._fs.open_output_stream(path) as stream:
            stream.write(json.dumps(content).encode())
