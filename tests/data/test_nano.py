"""The nano suite: what is in it, and that an item is a pure function of its name."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from grpo_tta.data import nano
from grpo_tta.data.corruptions import CORRUPTIONS, corrupt
from grpo_tta.data.tasks import nano_tasks


def test_kinds_and_ids() -> None:
    kinds = Counter(task.kind for task in nano.TASKS.values())
    assert kinds == {"source": 1, "shifted": 12, "cross-domain": 5, "real": 1, "stream": 3}
    tasks = nano_tasks()
    assert all(task.kind != "stream" for task in tasks)
    names = [name for split in nano.SPLITS for task in nano_tasks(list(nano.TASKS), split) for name in task.image_ids]
    assert len(names) == len(set(names))
    assert all(len(set(task.classes)) == len(task.classes) > 1 for task in nano.TASKS.values())


@pytest.mark.parametrize("name", nano.TASKS)
def test_items_are_reproducible_and_splits_differ(name: str) -> None:
    first, again = nano.item(name, "reporting", 3), nano.item(name, "reporting", 3)
    assert first.image.dtype == np.uint8
    assert first.image.shape == (64, 64, 3)
    assert np.array_equal(first.image, again.image)
    assert first.label == again.label
    assert first.label in range(len(nano.TASKS[name].classes))
    assert not np.array_equal(first.image, nano.item(name, "tuning", 3).image)


def test_labels_are_balanced_but_in_streams() -> None:
    labels = Counter(item.label for item in nano.items("fog", "tuning", 48))
    assert set(labels.values()) == {2}
    assert len({item.label for item in nano.items("stream-single", "tuning", 10)}) == 1
    assert len({item.label for item in nano.items("stream-correlated", "tuning", 20)}) == 1


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severities_get_worse(name: str) -> None:
    image = nano.item("source", "tuning", 5).image
    distance = [
        np.abs(corrupt(image, name, severity, np.random.default_rng(0)).astype(float) - image).mean() for severity in (1, 5)
    ]
    assert 0 < distance[0] < distance[1]


def test_unknown_items_are_refused() -> None:
    for arguments, message in (
        (("x", "tuning", 0), "Unknown task"),
        (("fog", "x", 0), "split"),
        (("fog", "tuning", 500), "500"),
    ):
        with pytest.raises(ValueError, match=message):
            nano.item(*arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Severity 6"):
        corrupt(np.zeros((8, 8, 3), np.uint8), "fog", 6, np.random.default_rng(0))
