"""A task made again from what `run.json` says of it, so that a report can show its images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_tta.data import imagenet_sample, nano, streams
from grpo_tta.data.custom import custom_task
from grpo_tta.data.photos import names_of_tasks, photo_tasks
from grpo_tta.data.tasks import Task, nano_tasks, suite_source
from grpo_tta.errors import UserError

_OWN = frozenset({"data", "labels_file", "template", "limit"})


def reopen(source: Mapping[str, Any], photos_root: Path | None, name: str | None = None) -> Task | None:
    """The task that a run saw, or None where it cannot be made again.

    The nano suite is drawn again. The suites of photographs need the folder that holds them. A user's own images are
    read from where they lay, if they still lie there.

    Args:
        source: `Task.source` of the task.
        photos_root: folder that holds the photographs of photos, imagenet-sample and streams; None where the reader has none.
        name: of the task, where the images are the user's own.

    Raises:
        UserError: `photos_root` does not hold the photographs.
    """
    if set(source) - {"labels"} == _OWN:
        return _own(source, name)
    if set(source) != set(suite_source("", "", "", None)):
        return None  # another kind of task, or one that was changed after it was read
    suite, name, split, limit = (source[key] for key in ("suite", "task", "split", "limit"))
    if suite == "nano" and name in nano.TASKS:
        return nano_tasks([name], split, limit)[0]
    if suite == "photos" and name in names_of_tasks() and photos_root is not None:
        return photo_tasks(photos_root, [name], split, limit)[0]
    if suite == streams.SUITE and (name.startswith("nano-") or photos_root is not None):
        return streams.stream_tasks(None if name.startswith("nano-") else photos_root, [name], split, limit)[0]
    if suite == imagenet_sample.SUITE and name in imagenet_sample.names_of_tasks() and photos_root is not None:
        return imagenet_sample.imagenet_sample_tasks(photos_root, [name], split, limit)[0]
    return None


def _own(source: Mapping[str, Any], name: str | None) -> Task | None:
    labels_file = Path(source["labels_file"]) if source["labels_file"] else None
    if labels_file is not None and not labels_file.is_file():
        return None  # gone, or it was a pipe
    try:
        return custom_task(
            Path(source["data"]),
            template=source["template"],
            labels_file=labels_file,
            limit=source["limit"],
            name=name,
            allow_empty=True,
        )
    except UserError:
        return None  # moved or changed since
