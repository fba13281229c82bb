"""The replicas of perf/gpu.py: how a device is shared out, and what is made of the runs. Ray itself runs in tests/cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.scripts import load_script

pytest.importorskip("ray")
from grpo_tta.cluster.jobs import ModelName
from grpo_tta.cluster.settings import RaySettings


@pytest.mark.parametrize(("off", "same"), [(0.0005, True), (0.002, False)])
def test_two_replicas_have_a_half_each(off: float, same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script("perf/ray_scaling.py", monkeypatch)
    runs: list[RaySettings] = []

    @contextlib.contextmanager
    def session(settings: RaySettings) -> Iterator[None]:
        yield

    def bench_on_ray(model: ModelName, source: Any, methods: Any, out: str, run_settings: Any, settings: RaySettings) -> None:
        runs.append(settings)
        assert (run_settings.batch, sum(source.counts.values())) == (2, 6)
        folder = Path(out)
        (folder / "checkpoint").mkdir()
        (folder / "checkpoint" / "0").touch()
        # a line per batch: process, when it ended, images, processor seconds
        lines = [f"{batch % settings.actors} {batch} 2 {batch}" for batch in range(3 + settings.actors)]
        (folder / "log").write_text("\n".join(lines) + "\n")

    def read_records(folders: list[Path]) -> pd.DataFrame:
        rows = {"image_id": [str(n) for n in range(6)], "confidence": [0.5 + off * (folders[0].name == "2")] * 6}
        return pd.DataFrame(rows).iloc[::-1]

    for name, stub in (("session", session), ("bench_on_ray", bench_on_ray), ("read_records", read_records)):
        monkeypatch.setattr(script, name, stub)
    found = script.replicas(ModelName("nano-clip", "cuda"), 6, 2, tmp_path / "out", cpus=8.0, gpus=1.0)
    assert [(s.actors, s.cpus, s.gpus, s.chunk) for s in runs] == [(1, 8.0, 1.0, 2), (2, 4.0, 0.5, 2)]
    assert found["same_answers"] is same
    assert (found["x1_processes"], found["x2_processes"]) == (1, 2)
    assert found["x2_images_per_second"] > 0
