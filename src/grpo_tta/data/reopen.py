"""A task made again from what `run.json` says of it, so that a report can show its images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_tta.data import imagenet_sample, nano
from grpo_tta.data.photos import names_of_tasks, photo_tasks
from grpo_tta.data.tasks import Task, nano_tasks, suite_source


def reopen(source: Mapping[str, Any], photos_root: Path | None) -> Task | None:
    """The task that a run saw, or None where it cannot be made again.

    The nano suite is drawn again. The suites of photographs need the folder that holds them. A user's own images stay closed: a
    report may be passed on, and they would be in it.

    Args:
        source: `Task.source` of the task.
        photos_root: folder that holds the photographs of the suites photos and imagenet-sample; None where the reader has none.

    Raises:
        UserError: `photos_root` does not hold the photographs.
    """
    if set(source) != set(suite_source("", "", "", None)):
        return None  # another kind of task, or one that was changed after it was read
    suite, name, split, limit = (source[key] for key in ("suite", "task", "split", "limit"))
    if suite == "nano" and name in nano.TASKS:
        return nano_tasks([name], split, limit)[0]
    if suite == "photos" and name in names_of_tasks() and photos_root is not None:
        return photo_tasks(photos_root, [name], split, limit)[0]
    if suite == imagenet_sample.SUITE and name in imagenet_sample.names_of_tasks() and photos_root is not None:
        return imagenet_sample.imagenet_sample_tasks(photos_root, [name], split, limit)[0]
    return None
