"""A task made again from what `run.json` says of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grpo_tta.data.custom import custom_task
from grpo_tta.data.reopen import reopen
from grpo_tta.data.tasks import check_limit, check_split, nano_tasks
from grpo_tta.errors import UserError


def test_a_task_of_the_suite_is_the_same_again() -> None:
    (task,) = nano_tasks(["fog"], "tuning", 3)
    made = reopen(json.loads(json.dumps(task.source)), None)
    assert made is not None
    assert (made.name, list(made.image_ids), made.classes) == (task.name, list(task.image_ids), task.classes)
    assert np.array_equal(made.load(2)[0], task.load(2)[0])


def test_what_cannot_be_made_again_is_none(tmp_path: Path) -> None:
    (task,) = nano_tasks(["fog"], "tuning", 3)
    assert reopen({}, None) is None
    assert reopen({"data": str(tmp_path)}, None) is None
    assert reopen({**task.source, "corruption": "fog", "severity": 5}, None) is None
    assert reopen({**task.source, "task": "unheard of"}, None) is None
    photos = {"suite": "photos", "task": "tiny", "split": "reporting", "limit": None}
    assert reopen(photos, None) is None
    with pytest.raises(UserError, match="no such file"):
        reopen(photos, tmp_path)


def test_images_of_ones_own_are_read_again_where_they_lay(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "mine" / name / "1.png")
    task = custom_task(tmp_path / "mine", template="a {}.", name="a-name")
    source = json.loads(json.dumps(task.source))
    made = reopen(source, None, "a-name")
    assert made is not None
    assert (made.name, list(made.image_ids), made.version) == (task.name, list(task.image_ids), task.version)
    assert reopen({**source, "data": str(tmp_path / "gone")}, None) is None
    assert reopen({**source, "labels_file": str(tmp_path / "gone")}, None) is None


def test_a_task_without_a_source_is_possible() -> None:
    assert dict(replace(nano_tasks(["fog"], "tuning", 3)[0], source={}).source) == {}


def test_splits_and_limits_are_checked() -> None:
    assert check_split("tuning") == "tuning"
    with pytest.raises(UserError, match="Unknown split 'test'; choose tuning or reporting"):
        check_split("test")
    check_limit(None)
    check_limit(1)
    with pytest.raises(UserError, match="set --limit-heavy to at least 1"):
        check_limit(0, "--limit-heavy")
