"""Freed memory is kept: what glibc is asked for, and that a process asks the system for less afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest

from grpo_tta.backbones import allocator
from grpo_tta.backbones.allocator import keep_freed_memory

PIECES = """
import resource, sys
import numpy as np
from grpo_tta.backbones.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.full(48 * 2**20, 1, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
kept = keep_freed_memory()
np.full(48 * 2**20, 1, np.uint8)
print(kept, first, faults())
"""


@pytest.mark.skipif(allocator._mallopt() is None, reason="the C library is not glibc")
def test_pages_are_not_asked_for_again() -> None:
    done = subprocess.run([sys.executable, "-c", PIECES], capture_output=True, text=True, check=True)
    kept, before, after = done.stdout.split()
    assert kept == "True"
    assert int(after) < int(before) / 4


def test_the_size_comes_first_and_an_old_glibc_gets_less(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def old(option: int, value: int) -> int:
        asked.append((option, value))
        return int(option == -1 or value <= 32 * 2**20)

    monkeypatch.setattr(allocator, "_mallopt", lambda: old)
    assert keep_freed_memory({})
    assert asked == [(-3, 256 * 2**20), (-3, 32 * 2**20), (-1, 256 * 2**20)]


def test_where_the_size_is_refused_nothing_else_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(allocator, "_mallopt", lambda: lambda option, value: asked.append(option) or 0)
    assert not keep_freed_memory({})
    assert asked == [-3, -3]


@pytest.mark.parametrize("name", ["GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"])
def test_the_users_own_choice_stands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_mallopt", lambda: pytest.fail)
    assert not keep_freed_memory({name: "1"})


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_mallopt", lambda: None)
    assert not keep_freed_memory({})
    monkeypatch.undo()

    def refuse(name: None) -> None:
        raise TypeError("a name is needed")  # as on Windows

    monkeypatch.setattr(allocator.ctypes, "CDLL", refuse)
    assert allocator._mallopt() is None
