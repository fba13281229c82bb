"""The suite of streams: long orders of images in which a method that carries on can gain, or go wrong.

A task is a world, a condition and an order: `nano-fog-5-iid`, `cifar-clean-zipf`, `tiny-recurring-5`.

- Worlds: `nano`, fresh drawings for nano-clip (none of the frozen suite, and as many as wanted); `cifar` and `tiny`,
  photographs of CIFAR-10 and Tiny-ImageNet for photo-clip. CIFAR-10 is corrupted at 32 pixels as in CIFAR-10-C. `imagenet64`
  has the photographs of `tiny` under ImageNet's names of 198 of their 200 classes, for networks that know those.
- Conditions: `clean`, or a corruption and a severity.
- Orders: `iid`; `zipf`, the k-th class 1/k times as often as the first; `correlated`, runs of twenty of one class; `single`,
  one class; `few`, a tenth of the classes, so that the list of labels is ten times too long.
- `@2`, `@3` and so on behind a name are other draws of the stream: other photographs or drawings, in another order.
- `recurring` and `gradual` take the place of condition and order. The first is noise, fog, clean and noise again, a quarter of
  the stream each. In the second noise rises from nothing to the severity and falls to nothing again.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import final

import numpy as np
from PIL import Image

from grpo_tta.backbones.imagenet_classes import class_names
from grpo_tta.backbones.prompts import DEFAULT_TEMPLATE
from grpo_tta.data import corruptions, nano, photos, scenes
from grpo_tta.data.small_corruptions import STRENGTHS, corrupt_small
from grpo_tta.data.tasks import Task, check_limit, check_split, suite_source
from grpo_tta.errors import UserError

SUITE = "streams"
ORDERS = ("iid", "zipf", "correlated", "single", "few")
SEVERITIES = (3, 5)
LONG, SHORT = 2000, 500
"""Images of a stream, i.i.d. and of any other kind, where no limit asks for another number."""
SHIFTING = ("recurring", "gradual")
_RUN = 20
_OTHER_DRAW = re.compile(r"@([2-9]|[1-9]\d+)$")
_OF_TINY = ("gaussian_noise", "impulse_noise", "fog", "contrast", "pixelate", "jpeg_compression")
CORRUPTIONS: dict[str, tuple[str, ...]] = {
    "nano": ("gaussian-noise", "impulse-noise", "fog", "contrast", "pixelate", "jpeg"),
    "cifar": tuple(STRENGTHS),
    "tiny": _OF_TINY,
    "imagenet64": _OF_TINY,
}
"""World -> its corruptions, noise and fog the first and third of them."""

Change = Callable[[int, Image.Image, str], Image.Image]
"""(place in the stream, image, its id) -> the image that the methods get."""


def conditions(world: str) -> list[str]:
    """Of a world, the clean one first."""
    return ["clean", *(f"{name}-{severity}" for name in CORRUPTIONS[world] for severity in SEVERITIES)]


def names_of_tasks(world: str) -> list[str]:
    """All streams of a world."""
    plain = [f"{world}-{condition}-{order}" for order in ORDERS for condition in conditions(world)]
    return [*plain, *(f"{world}-{kind}-{severity}" for kind in SHIFTING for severity in SEVERITIES)]


def default_tasks(world: str) -> list[str]:
    """i.i.d. streams of all conditions; the others clean and under noise and pixels of severity 5."""
    noise, pixels = f"{CORRUPTIONS[world][0]}-5", "pixelate-5"
    plain = [f"{world}-{condition}-iid" for condition in conditions(world)]
    others = [f"{world}-{condition}-{order}" for order in ORDERS[1:] for condition in ("clean", noise, pixels)]
    return [*plain, *others, *(f"{world}-{kind}-5" for kind in SHIFTING)]


def stream_tasks(
    root: Path | None, names: Sequence[str] | None = None, split: str = "reporting", limit: int | None = None
) -> list[Task]:
    """Drawings by default; photographs where their folder is named. One model per run, so never both.

    Args:
        root: folder that holds the photographs; None for drawings.
        names: of streams, with `@2` and so on behind them for other draws; None for `default_tasks`.

    Raises:
        UserError: unknown names or split, a limit below one, or files that are missing or not readable.
    """
    check_split(split)
    check_limit(limit)
    worlds = ("nano",) if root is None else ("cifar", "tiny", "imagenet64")
    usual = worlds[:2]  # imagenet64 is for other models than the others are
    known = [name for world in worlds for name in names_of_tasks(world)]
    wanted = [name for world in usual for name in default_tasks(world)] if names is None else list(dict.fromkeys(names))
    if unknown := [name for name in wanted if _OTHER_DRAW.sub("", name) not in known]:
        hint = "" if root is not None else " (streams of photographs need --photos-root)"
        raise UserError(f"Unknown stream {unknown[0]!r}; choose from {', '.join(known)}{hint}.")
    if not wanted:
        raise UserError(f"No stream was named; choose from {', '.join(known)}.")
    if root is None:
        return [_nano_task(name, split, limit) for name in wanted]
    named = {name: _parts(name)[0] for name in wanted}
    held = {world: _read_world(world, root, split) for world in set(named.values())}  # once, whatever the number of streams
    return [_photo_task(name, held[world], split, limit) for name, world in named.items()]


def _parts(name: str) -> tuple[str, str, str]:
    """World, condition and order."""
    world, _, rest = _OTHER_DRAW.sub("", name).partition("-")
    if rest.startswith(SHIFTING):
        return world, rest, "iid"
    condition, _, order = rest.rpartition("-")
    return world, condition, order


def labels_of(order: str, n: int, classes: int, generator: np.random.Generator) -> np.ndarray:
    """Labels of a stream of n images, `[n]`."""
    shuffled = generator.permutation(classes)
    if order == "iid":
        return generator.integers(classes, size=n)
    if order == "zipf":
        weights = 1.0 / np.arange(1, classes + 1)
        return shuffled[generator.choice(classes, n, p=weights / weights.sum())]
    if order == "correlated":
        return shuffled[np.arange(n) // _RUN % classes]
    few = 1 if order == "single" else max(1, classes // 10)
    return shuffled[:few][generator.integers(few, size=n)]


def _random(*words: str | int) -> np.random.Generator:
    return np.random.default_rng([word if isinstance(word, int) else zlib.crc32(word.encode()) for word in words])


def _at(world: str, condition: str, place: int, n: int) -> tuple[str, int]:
    """Corruption ("" for none) and severity of an image by its place in the stream."""
    kind, _, named = condition.rpartition("-")
    severity, noise, fog = int(named) if kind else 0, CORRUPTIONS[world][0], CORRUPTIONS[world][2]
    if kind == "recurring":
        kind = (noise, fog, "", noise)[4 * place // n]
    elif kind == "gradual":
        steps = (2 * severity + 1) * place // n  # 0, 1, ..., severity, ..., 1, 0, a share of the stream each
        severity = severity - abs(severity - steps)
        kind = noise if severity else ""
    return kind, severity if kind else 0


def _length(order: str, condition: str, limit: int | None) -> int:
    """As many images as are asked for; drawings never end."""
    usual = LONG if order == "iid" and not condition.startswith(SHIFTING) else SHORT
    return usual if limit is None else limit


@final
class _Drawn:
    """Images of a nano stream, drawn when they are asked for."""

    def __init__(self, name: str, split: str, n: int) -> None:
        self._name, self._split, self._n = name, split, n
        self._world, self._condition, order = _parts(name)
        self._labels = labels_of(order, n, len(scenes.shapes()), _random(name, split))

    def __call__(self, number: int) -> tuple[Image.Image, int]:
        label, shapes = int(self._labels[number]), tuple(scenes.shapes())
        generator = _random(self._name, self._split, "image", number)
        drawn = scenes.draw(generator, scenes.random_scene(generator, what=shapes[label]), scenes.SOURCE)
        kind, severity = _at(self._world, self._condition, number, self._n)
        return Image.fromarray(corruptions.corrupt(drawn, kind, severity, generator) if kind else drawn), label


def _nano_task(name: str, split: str, limit: int | None) -> Task:
    _, condition, order = _parts(name)
    source = nano.TASKS["source"]
    n = _length(order, condition, limit)
    ids = [f"streams/{name}/{split}/{number:04d}" for number in range(n)]
    load = _Drawn(name, split, n)
    about = suite_source(SUITE, name, split, limit)
    return Task(name, "stream", source.classes, source.template, source.ensemble, ids, load, ordered=True, source=about)


def _read_world(world: str, root: Path, split: str) -> tuple[photos.Photos, dict[str, str]]:
    """The photographs of a world, and label -> name of its classes."""
    held = photos.read_photos(root, "cifar" if world == "cifar" else "tiny", split)
    if world == "tiny":
        return held, photos.tiny_names(root)
    if world == "imagenet64":
        return _under_imagenets_names(held, root)
    return held, {label: label for label in sorted(set(held.labels))}


def _under_imagenets_names(held: photos.Photos, root: Path) -> tuple[photos.Photos, dict[str, str]]:
    """Without the photographs of two classes, whose names ImageNet gives to another class as well."""
    names = class_names()
    if unknown := [label for label in held.labels if label not in names]:
        raise UserError(f"{root}: {unknown[0]} is no WordNet id of ImageNet's classes, so imagenet64 has no name for it.")
    times = Counter(names.values())
    kept = held.some([row for row, label in enumerate(held.labels) if times[names[label]] == 1])
    return kept, {label: names[label] for label in sorted(set(kept.labels))}


def _photo_task(name: str, of_world: tuple[photos.Photos, dict[str, str]], split: str, limit: int | None) -> Task:
    (world, condition, order), (held, names) = _parts(name), of_world
    classes = tuple(dict.fromkeys(names.values()))
    labels = np.array([classes.index(names[label]) for label in held.labels])
    rows = _rows(labels, order, _length(order, condition, limit), len(classes), _random(name, split))

    def load(number: int) -> tuple[Image.Image, int]:
        row = rows[number]
        image, key = held.image(row), held.ids[row]
        kind, severity = _at(world, condition, number, len(rows))
        if kind and world == "cifar":
            image = corrupt_small(image, kind, severity, _random(kind, severity, key))
        elif kind:
            image = photos.corrupted(image, kind, severity, key)
        return image, int(labels[row])

    ids = [f"streams/{name}/{split}/{held.ids[row]}" for row in rows]
    about = suite_source(SUITE, name, split, limit)
    return Task(name, "stream", classes, DEFAULT_TEMPLATE, photos.ENSEMBLE, ids, load, ordered=True, source=about)


def _rows(labels: np.ndarray, order: str, n: int, classes: int, generator: np.random.Generator) -> list[int]:
    """Rows of the photographs of a stream, each at most once; where a class has run out, its place is left out."""
    if order == "iid":
        return [int(row) for row in generator.permutation(len(labels))[:n]]
    wanted = labels_of(order, n, classes, generator)
    left = {int(c): list(generator.permutation(np.flatnonzero(labels == c))) for c in np.unique(wanted)}
    return [int(left[int(c)].pop()) for c in wanted if left[int(c)]]
