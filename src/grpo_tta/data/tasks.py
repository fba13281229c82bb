"""A classification task as the runner sees it: classes, prompts, stable image ids and a loader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, final

from PIL import Image

from grpo_tta.data import nano
from grpo_tta.errors import UserError
from grpo_tta.images.inputs import ImageLike, decode_image, to_image
from grpo_tta.images.read import DecodedImage, image_key

Kind = Literal["source", "shifted", "cross-domain", "real", "stream"]
SHIFTED_MEAN: tuple[Kind, ...] = ("shifted", "cross-domain", "real")
"""The kinds whose tasks make up "the shifted mean"."""
Split = nano.Split
SPLITS: tuple[Split, ...] = nano.SPLITS
"""Settings are chosen on `tuning`; published numbers come from `reporting`."""


@final
@dataclass(frozen=True)
class Task:
    """
    Attributes:
        name: unique in a run.
        kind: decides which means the task enters.
        classes: class names, in the order of the labels.
        template: of the field's single-template protocol.
        ensemble: templates of methods with a prompt ensemble.
        image_ids: stable ids, in the order of the stream.
        load: number of an image -> (image, label). Only the runner ever sees the label.
        ordered: the order means something (streams) and must not be shuffled.
        prompted_by: which of them make the text features: the single template or the mean of the ensemble.
        keyed_by: what names an image's random numbers: its id, or its pixels. With pixels the answer does not depend on
            where an image lies, as in `predict`.
        repeated_names: two classes may share a name (OpenAI's ImageNet names do).
        by_class: images stand class by class, so that the first N of them are no fair sample.
        version: distinguishes these images and labels from others with the same ids; "" where ids are enough.
        source: where the task comes from, as JSON values, so that `reopen` can make it again; empty where it cannot.
            A change that `reopen` does not know (a corruption on top) needs a key of its own.
        notes: what of the data set was left out, a sentence each, for whoever runs it.
    """

    name: str
    kind: Kind
    classes: tuple[str, ...]
    template: str
    ensemble: tuple[str, ...]
    image_ids: Sequence[str]
    load: Callable[[int], tuple[Image.Image, int]]
    ordered: bool = False
    prompted_by: Literal["template", "ensemble"] = "template"
    keyed_by: Literal["id", "pixels"] = "id"
    repeated_names: bool = False
    by_class: bool = False
    version: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def templates(self) -> tuple[str, ...]:
        """Templates whose mean makes the text features."""
        return (self.template,) if self.prompted_by == "template" else self.ensemble


@final
@dataclass(frozen=True)
class StoredImages:
    """`Task.load` of images that lie encoded somewhere: they are decoded when asked for, in no more pixels than are needed.

    Attributes:
        place: number of an image -> a path, or the encoded image.
        label: number of an image -> label.
    """

    place: Callable[[int], ImageLike]
    label: Callable[[int], int]

    def __call__(self, number: int) -> tuple[Image.Image, int]:
        """The image with all its pixels, and its label."""
        label = self.label(number)
        return to_image(self.place(number)), label


def image_of(task: Task, number: int, least_side: int | None) -> tuple[DecodedImage, int]:
    """An image of a task as a method sees it, under the name that its random numbers are drawn by, and its label.

    Args:
        least_side: shorter side in pixels to which a larger image may be reduced; None keeps all pixels.
    """
    load = task.load
    if isinstance(load, StoredImages):
        label = load.label(number)
        decoded = decode_image(load.place(number), least_side)
    else:
        image, label = load(number)
        decoded = decode_image(image, least_side)
    return replace(decoded, key=task.image_ids[number]) if task.keyed_by == "id" else decoded, label


def check_split(split: str) -> Split:
    """The split of that name.

    Raises:
        UserError: there is none.
    """
    for known in SPLITS:
        if split == known:
            return known
    raise UserError(f"Unknown split {split!r}; choose {' or '.join(SPLITS)}.")


def check_limit(limit: int | None, option: str = "it") -> None:
    """
    Args:
        limit: of images per task; None is no limit.
        option: what the user has to set.

    Raises:
        UserError: a limit below one.
    """
    if limit is not None and limit < 1:
        raise UserError(f"A limit of {limit} images leaves nothing to do; set {option} to at least 1.")


def suite_source(suite: str, task: str, split: str, limit: int | None) -> dict[str, Any]:
    """`Task.source` of a task that a suite holds."""
    return {"suite": suite, "task": task, "split": split, "limit": limit}


def sample(task: Task, limit: int) -> frozenset[int]:
    """Numbers of at most `limit` images that stand for a task: the first, or evenly spread where those are of one class."""
    count = len(task.image_ids)
    return frozenset(evenly(count, limit) if task.by_class else range(min(limit, count)))


def random_key(task: Task, number: int, image: Image.Image) -> str:
    """The name under which an image's random numbers are drawn."""
    return task.image_ids[number] if task.keyed_by == "id" else image_key(image)


def evenly(count: int, limit: int | None) -> list[int]:
    """Numbers of at most `limit` of `count` images, taken evenly from the whole.

    Raises:
        UserError: a limit below one.
    """
    check_limit(limit)
    if limit is None or limit >= count:
        return list(range(count))
    return [i * count // limit for i in range(limit)]


def _nano_task(spec: nano.Task, split: nano.Split, limit: int | None) -> Task:
    def load(number: int) -> tuple[Image.Image, int]:
        item = nano.item(spec.name, split, number)
        return Image.fromarray(item.image), item.label

    count = nano.size(spec.name, split)
    ids = [f"nano/{spec.name}/{split}/{number:04d}" for number in range(count if limit is None else min(limit, count))]
    return Task(
        spec.name,
        spec.kind,
        spec.classes,
        spec.template,
        spec.ensemble,
        ids,
        load,
        ordered=spec.kind == "stream",
        source=suite_source("nano", spec.name, split, limit),
    )


def nano_tasks(names: Sequence[str] | None = None, split: str = "reporting", limit: int | None = None) -> list[Task]:
    """Tasks of the nano suite: all but the streams by default, streams too for `["all"]`; cut to the first `limit` images.

    Raises:
        UserError: unknown task or split, or a limit below one.
    """
    known = check_split(split)
    check_limit(limit)
    if names is None:
        names = [name for name, spec in nano.TASKS.items() if spec.kind != "stream"]
    elif list(names) == ["all"]:
        names = list(nano.TASKS)
    unknown = [name for name in names if name not in nano.TASKS]
    if unknown:
        raise UserError(f"Unknown task {unknown[0]!r}; choose from {', '.join(nano.TASKS)}.")
    if not names:
        raise UserError(f"No task was named; choose from {', '.join(nano.TASKS)}.")
    return [_nano_task(nano.TASKS[name], known, limit) for name in dict.fromkeys(names)]
