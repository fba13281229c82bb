"""What a call and a method cost: wall-clock time and peak memory."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch

from grpo_tta.bench.runs import RunSettings
from grpo_tta.data.tasks import Task, image_of
from grpo_tta.engine.encode import encode_for
from grpo_tta.engine.interface import Method
from grpo_tta.engine.policy import Policy


def reset_peak(device: torch.device) -> None:
    """Starts the peak of `peak_memory_mb` afresh, from what is in use now."""
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

    After `patience` seconds the call is not repeated: long ones vary little, and would cost more than the run.
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


def time_methods(policy: Policy, task: Task, methods: Sequence[Method], settings: RunSettings) -> dict[str, dict[str, float]]:
    """Milliseconds per image and peak memory of each method alone: views, frozen pass and method, on a few images.

    A method that fails, or fails on unreadable images, has no figures; the run records why.
    """
    images, names = [], []
    least_side = settings.views.least_side(policy.backbone.image_size)
    for number in range(min(settings.batch, len(task.image_ids))):
        with contextlib.suppress(Exception):
            images.append(image_of(task, number, least_side)[0].image)
            names.append(task.image_ids[number])
    out: dict[str, dict[str, float]] = {}
    for method in methods if images else ():

        def call(method: Method = method) -> None:
            method(policy, encode_for([method], policy, images, names, settings.views, settings.seed), {})

        with contextlib.suppress(Exception):
            milliseconds, memory = measure(call, policy.backbone.device)
            out[method.name] = {"ms": milliseconds / len(images), "peak_memory_mb": memory}
    return out
