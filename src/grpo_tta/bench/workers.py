"""Processes of the same command that share a run's tasks: small models keep one core busy, not two."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from grpo_tta.errors import UserError


def worker_commands(options: Sequence[str], count: int) -> list[list[str]]:
    """`grpo-tta bench` with these options, once per worker, each with its share of the tasks.

    Raises:
        UserError: fewer than one worker.
    """
    if count < 1:
        raise UserError(f"{count} workers do no work; set --workers to at least 1.")
    own = [sys.executable, "-m", "grpo_tta", "bench", *options]
    return [[*own, "--task-share", f"{number}/{count}"] for number in range(count)]


def run_workers(commands: Sequence[Sequence[str]], parts: Sequence[Path], console: Console, *, poll: float = 1.0) -> None:
    """Runs commands side by side, the cores divided among them, until all have ended; a bar counts the parts on disk.

    Args:
        commands: one per worker.
        parts: the files that they write between them.
        poll: seconds between two checks.

    Raises:
        UserError: a worker failed. The others have been stopped. What is on disk stays, and the same command resumes.
    """
    threads = str(max(1, (os.cpu_count() or 1) // len(commands)))
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    columns = (TextColumn("parts"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile()) for _ in commands]
        running = [
            subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log)
            for command, log in zip(commands, logs, strict=True)
        ]
        for process in running:
            stack.callback(process.wait)
            stack.callback(process.terminate)
        bar = stack.enter_context(Progress(*columns, console=console))
        line = bar.add_task("", total=len(parts))
        while True:
            codes = [process.poll() for process in running]
            bar.update(line, completed=sum(part.is_file() for part in parts))
            for code, log in zip(codes, logs, strict=True):
                if code not in (None, 0):
                    log.seek(0)
                    output = log.read().decode(errors="replace").strip().splitlines()
                    raise UserError(f"A worker stopped with code {code}: {output[-1] if output else 'no output'}")
            if all(code == 0 for code in codes):
                return
            time.sleep(poll)
