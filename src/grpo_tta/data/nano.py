"""The nano suite: 19 small classification tasks and 3 streams, drawn offline from seeds, for nano-clip.

Kinds: `source` (what nano-clip was trained on), `shifted` (the same 24 classes, seen differently), `cross-domain`
(other class sets of the same world), `real` (handwritten digits, for a model that has only seen print) and `stream`
(orders in which online methods can go wrong; never part of a mean). Each task has a `tuning` and a `reporting`
split made from different seeds. An item's id is stable: `nano/<task>/<split>/<number>`.

Frozen together with the weights of nano-clip: changing a line of it voids every published table.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

import numpy as np

from grpo_tta.data import scenes
from grpo_tta.data.corruptions import CORRUPTIONS, corrupt

Kind = Literal["source", "shifted", "cross-domain", "real", "stream"]
Split = Literal["tuning", "reporting"]
SPLITS: tuple[Split, Split] = ("tuning", "reporting")
SIZES: dict[Split, int] = {"tuning": 500, "reporting": 1000}

_SHAPES = tuple(scenes.shapes())
_COMBINATIONS = tuple((colour, what) for colour in scenes.COLOURS for what in _SHAPES if scenes.held_out(colour, what))[::2]
_PHOTO = ("a photo of a {}.", "a picture of a {}.", "an image of a {}.", "a good photo of a {}.", "a bad photo of a {}.",
          "a drawing of a {}.", "a rendering of a {}.")  # fmt: skip


@dataclass(frozen=True)
class Task:
    """One task of the suite: its classes, the prompt of the field's single-template protocol, and an ensemble."""

    name: str
    kind: Kind
    classes: tuple[str, ...]
    template: str = _PHOTO[0]
    ensemble: tuple[str, ...] = _PHOTO


@dataclass(frozen=True)
class Item:
    """One labelled picture: uint8 `[64, 64, 3]`."""

    image_id: str
    image: np.ndarray
    label: int


def _reworded(phrase: str) -> tuple[str, ...]:
    return tuple(template.replace("a {}", phrase) for template in _PHOTO)


def _make_tasks() -> dict[str, Task]:
    something, plain = _reworded("something {}"), _reworded("{}")
    letter, digit = _reworded("the letter {}"), _reworded("the digit {}")
    tasks = [Task("source", "source", _SHAPES)]
    tasks += [Task(name, "shifted", _SHAPES) for name in ("sketch", "rendition", "resampled", "hard", *CORRUPTIONS)]
    tasks += [
        Task("colours", "cross-domain", tuple(scenes.COLOURS), something[0], something),
        Task("textures", "cross-domain", scenes.TEXTURES, something[0], something),
        Task(
            "counts",
            "cross-domain",
            ("one object", *(f"{n} objects" for n in scenes.COUNT_WORDS[1:])),
            plain[0],
            plain,
        ),
        Task("combinations", "cross-domain", tuple(f"{colour} {what}" for colour, what in _COMBINATIONS)),
        Task("letters", "cross-domain", tuple(scenes.LETTERS), letter[0], letter),
        Task("digits", "real", tuple(scenes.DIGITS), digit[0], digit),
    ]
    tasks += [Task(f"stream-{order}", "stream", _SHAPES) for order in ("zipf", "single", "correlated")]
    return {task.name: task for task in tasks}


TASKS: dict[str, Task] = _make_tasks()


@cache
def _hard_ids() -> dict[str, list[int]]:
    return json.loads((files("grpo_tta.data") / "hard_ids.json").read_text())


@cache
def _digits(split: Split) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    rows = order[: SIZES["reporting"]] if split == "reporting" else order[SIZES["reporting"] :]
    return bunch.images[rows], bunch.target[rows]


def size(task: str, split: Split) -> int:
    """Number of items of a split."""
    return min(SIZES[split], len(_digits(split)[1])) if task == "digits" else SIZES[split]


def _rng(*words: str | int) -> np.random.Generator:
    return np.random.default_rng([w if isinstance(w, int) else zlib.crc32(w.encode()) for w in words])


def _stream_label(task: str, split: Split, number: int) -> int:
    C = len(_SHAPES)
    if task == "stream-single":
        return _SHAPES.index("fish")
    if task == "stream-correlated":  # runs of twenty of one class, the classes in shuffled order
        return int(_rng(task, split).permutation(C)[number // 20 % C])
    weights = 1.0 / np.arange(1, C + 1)
    ranks = _rng(task, split).permutation(C)
    return int(ranks[_rng(task, split, number, "class").choice(C, p=weights / weights.sum())])


def _hard_candidate(split: Split, number: int) -> tuple[np.ndarray, int]:
    rng = _rng("hard", split, number)
    label = number % len(_SHAPES)
    return scenes.draw(rng, scenes.random_scene(rng, what=_SHAPES[label]), scenes.HARD), label


def item(task: str, split: Split, number: int) -> Item:
    """Draws item `number` of a task's split; a pure function of its arguments.

    Raises:
        ValueError: no such task or split, or a number beyond the split.
    """
    if task not in TASKS:
        raise ValueError(f"Unknown task {task!r}; choose one of {', '.join(TASKS)}.")
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}; choose tuning or reporting.")
    if not 0 <= number < size(task, split):
        raise ValueError(f"Task {task!r} has {size(task, split)} {split} items; number {number} does not exist.")
    image, label = _draw(task, split, number)
    return Item(f"nano/{task}/{split}/{number:04d}", image, label)


def _draw(task: str, split: Split, number: int) -> tuple[np.ndarray, int]:
    spec = TASKS[task]
    rng = _rng(task, split, number)
    label = number % len(spec.classes)
    if task == "digits":
        images, targets = _digits(split)
        return scenes.draw_digit(images[number]), int(targets[number])
    if task == "hard":
        return _hard_candidate(split, _hard_ids()[split][number])
    if task == "colours":
        return scenes.draw(rng, scenes.random_scene(rng, colour=spec.classes[label])), label
    if task == "textures":
        return scenes.draw(rng, scenes.random_scene(rng, texture=spec.classes[label])), label
    if task == "counts":
        return scenes.draw(rng, scenes.random_scene(rng, count=label + 1)), label
    if task == "combinations":
        colour, what = _COMBINATIONS[label]
        return scenes.draw(rng, scenes.random_scene(rng, what=what, colour=colour)), label
    if task == "letters":
        scene = scenes.random_scene(rng, what=spec.classes[label])
        return scenes.draw(rng, scene, scenes.Spread(held_out_fonts=True)), label
    if spec.kind == "stream":
        label = _stream_label(task, split, number)
    scene = scenes.random_scene(rng, what=_SHAPES[label])
    if task == "sketch":
        return scenes.draw_sketch(rng, scene), label
    if task == "rendition":
        return scenes.draw_rendition(rng, scene), label
    picture = scenes.draw(rng, scene, scenes.RESAMPLED if task == "resampled" else scenes.SOURCE)
    if task in CORRUPTIONS:  # severities change more slowly than classes, so that the two are not tied
        picture = corrupt(picture, task, 1 + (number // len(_SHAPES)) % 5, rng)
    elif spec.kind == "stream":
        picture = corrupt(picture, "gaussian-noise", 3, rng)
    return picture, label


def items(task: str, split: Split = "reporting", limit: int | None = None) -> Iterator[Item]:
    """The first `limit` items of a split (all of them by default), one at a time."""
    for number in range(size(task, split) if limit is None else min(limit, size(task, split))):
        yield item(task, split, number)


def filter_hard(is_right: Callable[[list[np.ndarray], list[int]], list[bool]], tries: int = 6000) -> dict[str, list[int]]:
    """Numbers of the hard candidates that a weak model gets wrong, classes in turn (used once, by the training recipe).

    Raises:
        RuntimeError: the model is too good to leave enough of them.
    """
    chosen: dict[str, list[int]] = {}
    C = len(_SHAPES)
    for split in SPLITS:
        need = -(-SIZES[split] // C)
        wrong: list[list[int]] = [[] for _ in range(C)]
        for start in range(0, tries, 20 * C):
            candidates = [_hard_candidate(split, number) for number in range(start, start + 20 * C)]
            right = is_right([image for image, _ in candidates], [label for _, label in candidates])
            for number, ok in zip(range(start, start + 20 * C), right, strict=True):
                if not ok:
                    wrong[number % C].append(number)
            if min(len(w) for w in wrong) >= need:
                break
        if min(len(w) for w in wrong) < need:
            raise RuntimeError("Too few hard scenes are misclassified; filter with an earlier checkpoint.")
        chosen[split] = [wrong[i % C][i // C] for i in range(SIZES[split])]
    return chosen
