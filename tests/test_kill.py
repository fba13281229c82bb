"""A run that is killed without warning, again and again, through the command line."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import pandas as pd

from grpo_tta.records import TIME_AND_MEMORY, read_records

KILLS = 10
METHODS = ("zero-shot", "grpo-tta", "tent", "grpo-tta-online")
LIMIT, CHUNK = 48, 4


def command(out: Path) -> list[str]:
    return [sys.executable, "-m", "grpo_tta.cli", "bench", "--tasks", "fog,stream-zipf", "--methods", ",".join(METHODS),
            "--split", "tuning", "--limit", str(LIMIT), "--chunk", str(CHUNK), "--batch", "4", "--out", str(out)]  # fmt: skip


def table(out: Path) -> pd.DataFrame:
    rows = read_records([out]).drop(columns=list(TIME_AND_MEMORY))
    return rows.sort_values(["task", "method", "image_id"], ignore_index=True)


def parts(out: Path) -> list[Path]:
    return list((out / "records").glob("[!.]*.parquet"))


def beat(out: Path) -> float:
    """Seconds from one part to the next."""
    times = sorted(part.stat().st_mtime for part in parts(out))
    return median(later - earlier for earlier, later in pairwise(times))


def test_ten_kills_lose_no_row_double_none_and_change_none(tmp_path: Path) -> None:
    """Each time a part or two further on and then at a random moment of the next one's making; at last it may finish."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    rng = random.Random(0)
    subprocess.run(command(tmp_path / "whole"), env=environment, check=True, stdout=subprocess.DEVNULL)
    out, killed, seen = tmp_path / "killed", 0, []
    for _ in range(KILLS):
        process = subprocess.Popen(command(out), env=environment, stdout=subprocess.DEVNULL)
        before, delay = len(parts(out)), rng.uniform(0, 1) * beat(tmp_path / "whole")
        while process.poll() is None and len(parts(out)) == before:  # it has to start first, which takes long
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        seen.append(len(parts(out)))
    assert killed == KILLS, f"{killed} of {KILLS} were killed in time, with {seen} parts; raise LIMIT"
    assert seen == sorted(seen)
    subprocess.run(command(out), env=environment, check=True, stdout=subprocess.DEVNULL)

    found, whole = table(out), table(tmp_path / "whole")
    for task in ("fog", "stream-zipf"):
        for method in METHODS:
            some = found[(found["task"] == task) & (found["method"] == method)]
            assert sorted(some["image_id"]) == [f"nano/{task}/tuning/{i:04d}" for i in range(LIMIT)]
            assert sorted(some["order"]) == list(range(LIMIT))
    pd.testing.assert_frame_equal(found, whole)  # what the methods carry along the stream was carried over the kills
