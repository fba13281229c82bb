"""What `auto` stands for, from what the hardware says of itself."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

from grpo_tta import GRPOTTA, UserError, load_backbone
from grpo_tta.backbones import hardware
from grpo_tta.backbones.base import check_device
from grpo_tta.backbones.hardware import bfloat16_instructions, choose_dtype, set_threads

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
