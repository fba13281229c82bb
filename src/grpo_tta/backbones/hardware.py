"""What this machine computes on: the device and the precision that `auto` stands for, and the threads of torch.

The choice is made from what the hardware says of itself, never from a measurement: a busy machine must not answer in another
precision than a quiet one.
"""

from __future__ import annotations

import logging
import platform
import re
from pathlib import Path
from typing import Literal

import torch

from grpo_tta.errors import UserError, first_line

_log = logging.getLogger(__name__)
_CPUINFO = Path("/proc/cpuinfo")
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


def _cpuinfo() -> str:
    if platform.system() != "Linux":
        return ""
    try:
        return _CPUINFO.read_text()
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
