"""What `auto` stands for, from what the hardware says of itself."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from grpo_tta import GRPOTTA, UserError, load_backbone
from grpo_tta.backbones import hardware
from grpo_tta.backbones.base import check_device
from grpo_tta.backbones.hardware import (
    available_memory,
    avx512_without_mkl,
    bfloat16_instructions,
    choose_dtype,
    free_memory,
    room_in_container,
    set_threads,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("fpu sse2 avx2", ""),
        ("avx512f avx512bw avx512_vnni", ""),  # without bfloat16 of its own it is slower in it
        ("avx512f avx512_bf16", "avx512_bf16"),
        ("avx512_bf16 amx_tile amx_bf16", "amx_bf16"),
        ("not_avx512_bf16", ""),
    ],
)
def test_instructions_are_read_from_the_flags_of_the_processor(flags: str, found: str) -> None:
    assert bfloat16_instructions(f"processor\t: 0\nmodel name\t: amx_bf16\nflags\t\t: {flags}\nbugs\t\t: amx_bf16\n") == found
    assert bfloat16_instructions("") == ""


@pytest.mark.parametrize(
    ("maker", "flags", "slow"),
    [
        ("AuthenticAMD", "avx2 avx512f", True),
        ("HygonGenuine", "avx512f", True),
        ("AuthenticAMD", "avx2 avx512_other", False),  # MKL uses AVX2 on any processor
        ("GenuineIntel", "avx2 avx512f", False),
    ],
)
def test_mkl_is_slow_on_avx512_of_other_makers(maker: str, flags: str, slow: bool) -> None:
    assert avx512_without_mkl(f"processor\t: 0\nvendor_id\t: {maker}\nflags\t\t: fpu {flags}\n") is slow
    assert avx512_without_mkl(f"flags\t\t: {flags}\n") is False


def test_automatic_precision_follows_the_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, dtype in (("avx512_bf16", "bfloat16"), ("avx2", "float32")):
        monkeypatch.setattr(hardware, "_cpuinfo", lambda flags=flags: f"flags : {flags}\n")
        assert choose_dtype(CPU)[0] == dtype
        assert str(load_backbone("nano-clip", device="cpu", dtype="auto").dtype) == f"torch.{dtype}"


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")])
def test_automatic_precision_of_a_cuda_device(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    found, why = choose_dtype(torch.device("cuda"))
    assert found == dtype
    assert "a GPU" in why


def test_without_a_cuda_device_automatic_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert check_device("auto") == CPU
    assert GRPOTTA("nano-clip", ["star", "heart"]).backbone.device == CPU


def test_a_cuda_device_is_taken_where_it_can_be_used(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(*sizes: int, device: str) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nand much more")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", lambda *sizes, device: SimpleNamespace(cpu=lambda: None))
    assert check_device("auto") == torch.device("cuda")
    monkeypatch.setattr(torch, "ones", refuse)
    with caplog.at_level(logging.WARNING):
        assert check_device("auto") == CPU
    assert "cannot be used (CUDA error: no kernel image is available); the CPU is taken." in caplog.text


def test_threads_are_set_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    set_threads(None)
    set_threads(3)
    assert given == [3]
    with pytest.raises(UserError, match="set --threads to at least 1"):
        set_threads(0)


def test_available_memory_is_read_from_the_system() -> None:
    assert available_memory("MemTotal:  100 kB\nMemFree:  1 kB\nMemAvailable:      50 kB\n") == 50 * 1024
    assert available_memory("MemTotal:  100 kB\n") is None


@pytest.mark.parametrize(
    ("limit", "used", "details", "room"),
    [
        ("1000\n", "300\n", "anon 200\ninactive_file 100\n", 800),
        ("1000", "300", "total_inactive_file 50\ninactive_file_x 7", 750),
        ("1000", "1300", "", 0),
        ("max\n", "300\n", "inactive_file 100\n", None),  # no limit
        ("", "", "", None),  # no container
    ],
)
def test_room_in_a_container(limit: str, used: str, details: str, room: int | None) -> None:
    assert room_in_container(limit, used, details) == room


def test_the_smaller_of_machine_and_container_is_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {"meminfo": "MemAvailable:  9 kB\n", "max": "8000", "current": "1000", "stat": "inactive_file 500"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(hardware, "_MEMINFO", tmp_path / "meminfo")
    container = [tmp_path / name for name in ("max", "current", "stat")]
    monkeypatch.setattr(hardware, "_CONTAINER", ([tmp_path / "missing"] * 3, container))
    assert free_memory(CPU) == 7500
    (tmp_path / "max").write_text("max")
    assert free_memory(CPU) == 9 * 1024
    (tmp_path / "meminfo").unlink()
    assert free_memory(CPU) is None
    assert free_memory(torch.device("mps")) is None


def test_what_torch_holds_and_does_not_use_is_free_on_a_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    assert free_memory(torch.device("cuda")) == 1200
