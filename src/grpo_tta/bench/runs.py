"""What a run is, and its `run.json`: how a run is described, how its folder is opened, and which folders hold the same run."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from grpo_tta.backbones.base import Backbone
from grpo_tta.bench.records import FORMAT, check_format, read_run, write_json
from grpo_tta.config.serialise import short_hash, to_plain
from grpo_tta.engine.interface import Method
from grpo_tta.errors import UserError, as_text
from grpo_tta.images.views import ViewSettings

if TYPE_CHECKING:
    from grpo_tta.data.tasks import Task  # `predict` reads this module, and the suite's drawings need scipy

NOT_COMPARED = ("sources", "notes", "device")
"""Entries of `run.json` in which the same run may differ: where a user's images lie, what lies beside them, what computes."""


@final
@dataclass(frozen=True)
class RunSettings:
    """
    Attributes:
        seed: of crops, content-free views, Gumbel noise and stream order.
        batch: images adapted in one pass. It changes speed and memory, not the answers of an episodic method.
        chunk: images per part on disk. A killed run repeats at most one part. A method that adapts to more than one image
            gets one part at once (by default a multiple of the baselines' update sizes).
        shard: (i, n) takes every n-th chunk, from the i-th on; episodic methods only.
        views: how views are made; counts follow the methods.
        first_only: method -> N, for methods that are too expensive for all images. An episodic one gets N images that stand
            for each task (`data.tasks.sample`), the same under every seed. Any other gets the first N of the stream. Its
            answers are those without the limit, where N is a multiple of its update size.
        task_share: (i, n) takes every n-th task, from the i-th on: how processes share a run, whatever its methods.
    """

    seed: int = 0
    batch: int = 16
    chunk: int = 128
    shard: tuple[int, int] = (0, 1)
    views: ViewSettings = field(default_factory=ViewSettings)
    first_only: Mapping[str, int] = field(default_factory=dict)
    task_share: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        if self.batch < 1 or self.chunk < 1:
            raise UserError("batch and chunk must be at least 1.")
        if self.seed < 0:
            raise UserError(f"A seed is a whole number from 0 on, not {self.seed}.")
        for name, (i, n) in (("Shard", self.shard), ("Task share", self.task_share)):
            if not 0 <= i < n:
                raise UserError(f"{name} {i}/{n} does not exist; use i/n with 0 <= i < n.")


@cache  # it stands in every record
def versions() -> str:
    names = ("grpo-tta", "torch", "open_clip_torch")
    return " ".join(f"{name}={importlib.metadata.version(name)}" for name in names)


def check_seeds(seeds: Sequence[int]) -> None:
    """
    Raises:
        UserError: none, or one twice.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError("Name each seed once, and at least one.")


def describe_run(backbone: Backbone, tasks: Sequence[Task], methods: Sequence[Method], settings: RunSettings) -> dict[str, Any]:
    """What a run depends on; two runs with the same description give the same predictions."""
    return {
        "format": FORMAT,
        "model": backbone.name,
        "fingerprint": backbone.fingerprint,
        "device": str(backbone.device),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "seed": settings.seed,
        "chunk": settings.chunk,
        "views": to_plain(settings.views),
        "first_only": dict(settings.first_only),
        "tasks": {task.name: len(task.image_ids) for task in tasks},
        "sources": {task.name: dict(task.source) for task in tasks},
        "notes": {task.name: [as_text(note) for note in task.notes] for task in tasks if task.notes},
        "images": {task.name: images_hash(task) for task in tasks},
        "classes": {task.name: list(task.classes) for task in tasks},
        "templates": {task.name: list(task.templates) for task in tasks},
        "methods": {method.name: _describe_method(method) for method in methods},
    }


def images_hash(task: Task) -> str:
    """Distinguishes the images of a task from others, as `images` of `run.json` has it."""
    return short_hash([task.version, *task.image_ids])


def _describe_method(method: Method) -> dict[str, Any]:
    return {
        "protocol": method.protocol,
        "reward": method.reward,
        "teacher": method.teacher,
        "views": method.views,
        "content_free": method.content_free,
        "settings": to_plain(method.settings),
    }


def check_same_run(folder: Path | str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """
    Args:
        found: the folder's `run.json`.
        wanted: as `describe_run` has it.

    Raises:
        UserError: the folder holds another run, or one of another format.
    """
    check_format(folder, found)
    found, wanted = ({"engine": "local", **run} for run in (found, wanted))
    check_same("run", folder, found, wanted)


def check_same(what: str, folder: Path | str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """
    Args:
        what: is described: a run or a sweep.

    Raises:
        UserError: a folder's description is not the one wanted; the message names the entries.
    """
    if different := [key for key, value in wanted.items() if key not in NOT_COMPARED and found.get(key) != value]:
        raise UserError(
            f"{folder} holds another {what} ({', '.join(different)} differ); name another --out or remove the folder."
        )


def start_run(folder: Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """Starts a run's folder, or checks that an existing one holds the same run. Returns its `run.json`.

    Raises:
        UserError: the folder holds another run, or nothing can be written there.
    """
    path = folder / "run.json"
    wanted: dict[str, Any] = json.loads(json.dumps(description))
    if path.is_file():
        found = read_run(folder)
        check_same_run(folder, found, wanted)
        return found
    if (folder / "records").exists():
        raise UserError(f"{folder} holds records without a run.json; name another --out.")
    wanted |= {"versions": versions(), "cost": {}}
    write_json(path, wanted)
    return wanted
