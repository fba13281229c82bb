"""What is promised of every episodic method: batch size, shards and restarts do not change what it says of an image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from grpo_tta.backbones.base import Backbone
from grpo_tta.baselines.registry import known_methods
from grpo_tta.bench.records import read_records
from grpo_tta.bench.runner import RunSettings, run
from grpo_tta.bench.table import expensive_methods
from grpo_tta.data.tasks import nano_tasks

MARGIN = 1e-4
"""Where the two most probable classes are closer than this, rounding may decide, and both answers are right."""

EPISODIC = [method for method in known_methods().values() if method.protocol == "episodic"]


def test_one_by_one_and_sixteen_in_two_shards_are_the_same(nano_backbone: Backbone, tmp_path: Path) -> None:
    tasks = nano_tasks(["fog", "letters"], "tuning", 12)
    dear = expensive_methods(nano_backbone, tasks[0], EPISODIC, RunSettings())
    assert {"grpo-tta-paper", "rlcf-full", "ttl", "encoder-entropy-full"} <= set(dear)
    few = RunSettings(chunk=3, first_only=dict.fromkeys(dear, 3))
    run(nano_backbone, tasks, EPISODIC, tmp_path / "one", replace(few, batch=1), timed=False)
    for shard in (0, 1):
        run(nano_backbone, tasks, EPISODIC, tmp_path / "two", replace(few, batch=16, shard=(shard, 2)), timed=False)
    keys = ["task", "image_id", "method"]
    one, two = (read_records([tmp_path / name]).sort_values(keys, ignore_index=True) for name in ("one", "two"))
    assert one[keys].equals(two[keys])
    assert set(one["method"]) == {method.name for method in EPISODIC}
    assert one.groupby("method").size().eq(2 * 12).sum() == len(EPISODIC) - len(dear)
    assert one["error"].isna().all()
    assert two["error"].isna().all()

    close = (one["margin"] < MARGIN) | (two["margin"] < MARGIN)
    differ = one["prediction"] != two["prediction"]
    print(f"{len(one)} rows, {close.sum()} with a margin below {MARGIN}, of which {(differ & close).sum()} differ")
    assert one[differ & ~close][keys].to_numpy().tolist() == []
    assert close.mean() < 0.05  # or the promise would be empty
    assert (one["confidence"] - two["confidence"]).abs().max() < 1e-3


@pytest.mark.parametrize("name", ["zero-shot", "grpo-tta", "tpt"])
def test_a_method_alone_says_what_it_says_among_all(nano_backbone: Backbone, tmp_path: Path, name: str) -> None:
    """The others ask for more views and for other tokens of the shared pass."""
    tasks, known = nano_tasks(["digits"], "tuning", 4), known_methods()
    run(nano_backbone, tasks, [known[name]], tmp_path / "alone", RunSettings(), timed=False)
    run(
        nano_backbone, tasks, [known[m] for m in (name, "zero", "grpo-tta-paper")], tmp_path / "all", RunSettings(), timed=False
    )
    alone, among = read_records([tmp_path / "alone"]), read_records([tmp_path / "all"])
    among = among[among["method"] == name].reset_index(drop=True)
    assert alone["prediction"].tolist() == among["prediction"].tolist()
    assert (alone["confidence"] - among["confidence"]).abs().max() < 1e-4
