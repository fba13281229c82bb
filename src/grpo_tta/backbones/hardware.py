"""What this machine computes on: device and precision that `auto` stands for, free memory, and the threads of torch.

The choice is made from what the hardware says of itself, never from a measurement: a busy machine must not answer in another
precision than a quiet one.
"""

from __future__ import annotations

import logging
import platform
import re
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from grpo_tta.errors import UserError, first_line

_log = logging.getLogger(__name__)
_CPUINFO, _MEMINFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
_CONTAINER = (
    [Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current", "memory.stat")],
    [Path("/sys/fs/cgroup/memory") / f"memory.{name}" for name in ("limit_in_bytes", "usage_in_bytes", "stat")],
)
"""Limit, use and details of use in the two versions of Linux's control groups."""
_BFLOAT16 = ("amx_bf16", "avx512_bf16")
"""Instructions of x86 that multiply bfloat16, as Linux names them. Without them torch is slower in it than in float32."""
_AMPERE = 8
"""The first generation of CUDA devices that multiply bfloat16 themselves (compute capability)."""


def choose_device() -> torch.device:
    """What `auto` stands for: the first CUDA device where one can be used, else the CPU.

    Apple's `mps` is not chosen. It was never tried with this software, so it is taken only where it is named.
    """
    if torch.cuda.is_available():
        try:
            torch.ones(1, device="cuda").cpu()
        except Exception as error:  # a driver that is too old, a device in exclusive use
            _log.warning("A CUDA device is there but cannot be used (%s); the CPU is taken.", first_line(error))
        else:
            return torch.device("cuda")
    return torch.device("cpu")


def choose_dtype(device: torch.device) -> tuple[Literal["float32", "bfloat16"], str]:
    """What `auto` stands for on this device, and why: bfloat16 where it is multiplied faster than float32."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        name = f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"
        if major >= _AMPERE:
            return "bfloat16", f"{name} multiplies it faster"
        return "float32", f"{name} has no instructions for bfloat16"
    if device.type == "cpu" and (found := bfloat16_instructions(_cpuinfo())):
        return "bfloat16", f"this processor multiplies it faster ({found})"
    return "float32", f"no instructions for bfloat16 are known of this {'processor' if device.type == 'cpu' else 'device'}"


def bfloat16_instructions(cpuinfo: str) -> str:
    """The instructions that multiply bfloat16, of the text of Linux's /proc/cpuinfo; "" for none."""
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    present = set(flags[1].split()) if flags else set()
    return next((name for name in _BFLOAT16 if name in present), "")


@cache
def mkl_is_slow() -> bool:
    """Whether torch's float32 products leave half of this processor unused, and oneDNN's are at hand."""
    there = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()
    return there and torch.backends.mkl.is_available() and avx512_without_mkl(_cpuinfo())


def avx512_without_mkl(cpuinfo: str) -> bool:
    """Of the text of Linux's /proc/cpuinfo: AVX-512 on a processor of another maker than Intel, where MKL does not use it."""
    maker = re.search(r"^vendor_id\s*:\s*(\S+)", cpuinfo, re.MULTILINE)
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    return bool(maker and flags) and maker[1] != "GenuineIntel" and "avx512f" in flags[1].split()  # type: ignore[index]


def _cpuinfo() -> str:
    return _text_of(_CPUINFO) if platform.system() == "Linux" else ""


def free_memory(device: torch.device) -> int | None:
    """Bytes that may still be taken on a device; None where it does not say.

    On CUDA what torch holds and does not use counts as free. On a CPU of Linux a container's limit counts.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu":
        return None
    of_machine = available_memory(_text_of(_MEMINFO))
    of_container = [room_in_container(*(_text_of(path) for path in paths)) for paths in _CONTAINER]
    known = [room for room in (of_machine, *of_container) if room is not None]
    return min(known, default=None)


def available_memory(meminfo: str) -> int | None:
    """Bytes that programs may take without swapping, of the text of Linux's /proc/meminfo; None where it does not say."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", meminfo, re.MULTILINE)
    return 1024 * int(found[1]) if found else None


def room_in_container(limit: str, used: str, details: str) -> int | None:
    """Bytes up to a container's limit, of the texts of its files; None where there is no limit. Files that it has read and that
    can be dropped do not count as used."""
    if not limit.strip().isdecimal() or not used.strip().isdecimal():
        return None
    dropped = re.search(r"^(?:total_)?inactive_file (\d+)$", details, re.MULTILINE)
    return max(0, int(limit) - int(used) + (int(dropped[1]) if dropped else 0))


def _text_of(path: Path) -> str:
    """A file of the system; "" where it is not there."""
    try:
        return path.read_text()
    except OSError:
        return ""


def set_threads(count: int | None) -> None:
    """Threads of torch on the CPU; None leaves them as they are.

    Raises:
        UserError: fewer than one.
    """
    if count is None:
        return
    if count < 1:
        raise UserError(f"{count} threads cannot work; set --threads to at least 1.")
    torch.set_num_threads(count)
