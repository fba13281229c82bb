"""The script that compares forms along a stream: every form runs, and the numbers are those of the method."""

from __future__ import annotations

import pytest

from grpo_tta.backbones.base import load_backbone
from grpo_tta.bench.runner import task_policy
from grpo_tta.data.streams import stream_tasks
from tests.scripts import load_script


def test_all_forms_run(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script("perf/streams.py", monkeypatch)
    (task,) = stream_tasks(None, ["nano-fog-5-iid"], "tuning", 40)
    found = script.run(task, task_policy(load_backbone("nano-clip"), task), script.forms(["online", "no step", "two steps"]))
    assert set(found) == {"zero-shot", "online", "no step", "two steps"}
    assert all(numbers["images"] == 40 for numbers in found.values())
    assert found["no step"]["kl"] == pytest.approx(0, abs=1e-5)
    assert found["online"]["kl"] > 1e-5
    assert "clipped" not in found["no step"]
    assert found["online"]["clipped"] == 0
    assert 0 <= found["online"]["gate"] <= 1
    assert script._numbers([True, True, False, True])["second_half"] == 50
    assert set(script.FORMS) > {"no gate", "frozen rewards", "no prior"}
