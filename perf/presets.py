"""What the presets `default` and `fast` gain over zero-shot, and what they cost in forward passes.

    python perf/presets.py --json build/presets.json            # reporting split, 100 images per task, minutes on 2 cores
    python perf/presets.py --split tuning --json build/tuning.json

Prints one JSON document. `fast_forwards` and `accurate_forwards` are forward passes of one view per image; content-free views
count. `accurate_gain` is in percentage points of the shifted mean over zero-shot, and `fast_gain_fraction` is the share of it
that `fast` keeps. Both come with 95 % intervals of a paired bootstrap. Views, prompts and seed are the same for all.

`accurate` in these keys is the default: they keep the name, so that old and new results can be compared.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from grpo_tta.backbones.base import load_backbone
from grpo_tta.baselines.registry import choose_methods
from grpo_tta.bench.records import read_records, write_json
from grpo_tta.bench.runner import RunSettings, run
from grpo_tta.data.tasks import SHIFTED_MEAN, nano_tasks
from grpo_tta.report.summary import is_correct

NAMES = ("zero-shot", "grpo-tta-fast", "grpo-tta")


def outcomes(rows: pd.DataFrame) -> list[np.ndarray]:
    """Per shifted task, who was right on which image: `[N, 3]`, columns in the order of `NAMES`."""
    rows = rows[rows["kind"].isin(SHIFTED_MEAN)].assign(correct=lambda found: is_correct(found))
    tables = (of_task.pivot(index="image_id", columns="method", values="correct") for _, of_task in rows.groupby("task"))
    return [table[list(NAMES)].to_numpy(dtype=float) for table in tables]


def gains(tasks: list[np.ndarray]) -> tuple[float, float]:
    """Gain of the default in percentage points, and the share of it that `fast` keeps."""
    zero, fast, accurate = np.mean([found.mean(0) for found in tasks], axis=0)
    return 100 * float(accurate - zero), float((fast - zero) / (accurate - zero))


def interval(tasks: list[np.ndarray], draws: int = 2000) -> np.ndarray:
    """95 % intervals of both gains, images drawn anew within every task: `[2 ends, 2 gains]`."""
    rng = np.random.default_rng(0)
    drawn = [gains([found[rng.integers(len(found), size=len(found))] for found in tasks]) for _ in range(draws)]
    return np.quantile(np.array(drawn), (0.025, 0.975), axis=0)


def measure(split: str, limit: int, seed: int) -> dict[str, Any]:
    """Runs the three methods on the nano suite and reads their records."""
    tasks = [task for task in nano_tasks(None, split, limit) if task.kind in SHIFTED_MEAN]
    with tempfile.TemporaryDirectory() as folder:
        run(load_backbone("nano-clip"), tasks, choose_methods(NAMES), Path(folder) / "run", RunSettings(seed=seed), timed=False)
        rows = read_records([Path(folder) / "run"])
    found = outcomes(rows)
    gain, fraction = gains(found)
    ends = interval(found)
    forwards = rows.groupby("method")["forwards"].mean()
    return {
        "fast_forwards": float(forwards["grpo-tta-fast"]),
        "fast_gain_fraction": fraction,
        "fast_gain_fraction_ci95": ends[:, 1].tolist(),
        "accurate_forwards": float(forwards["grpo-tta"]),
        "accurate_gain": gain,
        "accurate_gain_ci95": ends[:, 0].tolist(),
        "split": split,
        "tasks": len(found),
        "images_a_task": limit,
        "seed": seed,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--split", choices=("reporting", "tuning"), default="reporting")
    parser.add_argument("--limit", type=int, default=100, help="images per task")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    result = measure(given.split, given.limit, given.seed)
    if given.json:
        write_json(given.json, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
