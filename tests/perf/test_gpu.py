"""perf/gpu.sh runs on the CPU with small sizes, writes one file per part, and goes on where it stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def run(out: Path) -> str:
    command = ["bash", str(REPOSITORY / "perf" / "gpu.sh"), str(out), "--cpu-smoke"]
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"} | {
        "PYTHONPATH": str(REPOSITORY / "src")
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_parts_on_the_cpu(tmp_path: Path) -> None:
    run(tmp_path)
    found = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert found.keys() == {"answers", "rates", "memory", "images", "compiled", "replicas"}
    assert found["answers"]["beyond_1e-3"] == []
    assert found["answers"]["methods"]["grpo-tta"] == {"largest_difference": 0.0, "same_labels": True}
    rates = found["rates"]["float32"]["nano-clip"]
    assert all(value > 0 for preset in ("default", "fast") for value in rates[preset]["from_images"].values())
    assert rates["1 x 4 views"]["episode_over_views"] > 1
    assert found["memory"]["nano-clip"]["auto"] == 4
    assert 0 < found["memory"]["nano-clip"]["counted_each_more_mb"] <= found["memory"]["nano-clip"]["counted_one_mb"]
    for part in ("compiled", "replicas"):
        assert "skipped" in found[part]
    assert run(tmp_path).count("is there") == 6
