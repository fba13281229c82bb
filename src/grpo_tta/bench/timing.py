"""What a call costs: wall-clock time and peak memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch


def reset_peak(device: torch.device) -> None:
    """Starts the peak that `peak_memory_mb` tells afresh, from what is in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    # "5" resets the high-water mark of the resident set on Linux; elsewhere the mark of the whole process stays.
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MB: allocated on a CUDA device, else the resident set of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1e3
    except OSError:
        pass
    scale = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def measure(call: Callable[[], object], device: torch.device, repeats: int = 3, patience: float = 2.0) -> tuple[float, float]:
    """Median milliseconds of a call after one that warms up, and its peak memory in MB (the process included).

    Once `patience` seconds were spent no call is repeated again: long ones vary little, and would cost more than the run.
    """
    call()
    reset_peak(device)
    times: list[float] = []
    while len(times) < repeats and sum(times) < 1000 * patience:
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1000 * (time.perf_counter() - started))
    return median(times), peak_memory_mb(device)
