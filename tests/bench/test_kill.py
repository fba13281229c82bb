"""A run that is killed without warning, again and again.

Every run is the command line in a process of its own, forked from a server that has imported the heavy modules already, since
start-up would otherwise take most of the time.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median

import pandas as pd
import torch

from grpo_tta.bench.records import TIME_AND_MEMORY, read_records

KILLS = 10
METHODS = ("zero-shot", "grpo-tta", "tent", "grpo-tta-online")
LIMIT, CHUNK = 24, 2


def command_line(out: str) -> None:
    """`grpo-tta bench`, in this process."""
    from grpo_tta.cli.main import main

    torch.set_num_threads(1)
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (until the process ends)
    sys.argv = ["grpo-tta", "bench", "--tasks", "fog,stream-zipf", "--methods", ",".join(METHODS), "--split", "tuning",
                "--limit", str(LIMIT), "--chunk", str(CHUNK), "--batch", "2", "--out", out]  # fmt: skip
    main()


def start(out: Path) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["grpo_tta.cli.main", "grpo_tta.bench.table", "grpo_tta.baselines.registry", "grpo_tta.backbones.open_clip"]
    )
    process = context.Process(target=command_line, args=(str(out),))
    process.start()
    return process


def finish(out: Path) -> None:
    process = start(out)
    process.join()
    assert process.exitcode == 0


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
    rng = random.Random(0)
    finish(tmp_path / "whole")
    out, killed, seen = tmp_path / "killed", 0, []
    for _ in range(KILLS):
        process = start(out)
        before, delay = len(parts(out)), rng.uniform(0, 1) * beat(tmp_path / "whole")
        while process.is_alive() and len(parts(out)) == before:  # it has to start first, which takes long
            time.sleep(0.01)
        time.sleep(delay)
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        seen.append(len(parts(out)))
    assert killed == KILLS, f"{killed} of {KILLS} were killed in time, with {seen} parts; raise LIMIT"
    assert seen == sorted(seen)
    finish(out)

    found, whole = table(out), table(tmp_path / "whole")
    for task in ("fog", "stream-zipf"):
        for method in METHODS:
            some = found[(found["task"] == task) & (found["method"] == method)]
            assert sorted(some["image_id"]) == [f"nano/{task}/tuning/{i:04d}" for i in range(LIMIT)]
            assert sorted(some["order"]) == list(range(LIMIT))
    pd.testing.assert_frame_equal(found, whole)  # what the methods carry along the stream was carried over the kills
