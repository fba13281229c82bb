"""Tensors that claim to lie on a GPU. They hold real numbers on the CPU, and refuse what a GPU would refuse.

Inside `ClaimedDevice` every call of torch is watched. A call that mixes tensors of both devices fails, as on a GPU, and so does
`.numpy()` of a tensor there. What makes the host wait for the device, and what copies between the two, is noted with the
line that did it. So a forgotten `device=` is found on a machine without a GPU.

Stricter than CUDA in one thing: an index must lie on the device of what it indexes. CUDA copies it without a word.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
READS = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "equal", "allclose", "is_nonzero"}
"""Functions whose result is a number on the host."""
SIZED_BY_VALUES = {"nonzero", "masked_select", "unique", "argwhere"}
"""Functions whose result's shape depends on values, so that the host waits for it."""
SOURCE = str(Path(__file__).resolve().parents[1] / "src")


class Claimed(Tensor):
    """A tensor that claims to lie on the GPU; whatever is computed from it does, too."""


def claim(x: Tensor) -> Tensor:
    return x.as_subclass(Claimed)


def claim_members(owner: object) -> None:
    """Moves, in place, all tensors and modules that an object holds."""
    for name, value in list(vars(owner).items()):
        if isinstance(value, nn.Module):
            claim_module(value)
        elif isinstance(value, Tensor):
            object.__setattr__(owner, name, claim(value))
        elif isinstance(value, Mapping | list | tuple):
            for module in value.values() if isinstance(value, Mapping) else value:
                if isinstance(module, nn.Module):
                    claim_module(module)


def claim_module(module: nn.Module) -> None:
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and not isinstance(parameter, Claimed):
                part._parameters[name] = nn.Parameter(claim(parameter.detach()), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = claim(buffer)


class ClaimedDevice(TorchFunctionMode):
    """The context in which the claim holds.

    Attributes:
        waits: lines at which the host waited for the device.
        uploads, downloads: lines that copied to the device and back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.uploads: list[str] = []
        self.downloads: list[str] = []

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:
            return GPU if isinstance(args[0], Claimed) else func(*args)
        if func == Tensor.is_cuda.__get__:
            return isinstance(args[0], Claimed)
        name = getattr(func, "__name__", str(func))
        tensors = list(_tensors([args, kwargs]))
        there = any(isinstance(x, Claimed) for x in tensors)
        if name == "pin_memory":  # there is no driver to ask
            return args[0]
        if name == "as_subclass":
            return func(*args, **kwargs)
        target, args, kwargs = _target(name, args, kwargs)
        self._note(name, args, tensors, there)
        if target is None:
            strangers = [x for x in tensors if not isinstance(x, Claimed) and x.ndim]
            if there and strangers and name not in ("__get__", "__set__"):
                raise AssertionError(
                    f"{name} mixes a tensor on the GPU with one on the CPU, {tuple(strangers[0].shape)}: {line()}"
                )
            return func(*args, **kwargs)
        if target == GPU and isinstance(kwargs.get("generator"), torch.Generator):
            raise AssertionError(f"{name} draws on the GPU from a generator of the CPU: {line()}")
        made = func(*args, **kwargs)
        given = tensors[0] if tensors and name in ("to", "cpu", "cuda", "as_tensor", "asarray", "copy_") else None
        if target == GPU:
            if (given is not None and not isinstance(given, Claimed)) or name in ("tensor", "as_tensor"):
                self.uploads.append(line())
            return made if isinstance(made, Claimed) else claim(made)
        if isinstance(given, Claimed):
            self.downloads.append(line())
        return made.as_subclass(Tensor) if isinstance(made, Claimed) else made

    def _note(self, name: str, args: tuple[Any, ...], tensors: list[Tensor], there: bool) -> None:
        if not there:
            return
        if name in ("numpy", "__array__"):
            raise AssertionError(f"{name} of a tensor on the GPU: {line()}")
        by_mask = name in ("__getitem__", "__setitem__", "index", "index_put") and any(
            isinstance(x, Tensor) and x.dtype == torch.bool for x in _tensors(args[1:2])
        )
        if name in ("__setitem__", "index_put") and by_mask and not isinstance(args[-1], Tensor):
            by_mask = False  # a number is filled in where the mask says so; nobody waits
        if name in READS or name in SIZED_BY_VALUES or by_mask or (name == "where" and len(args) == 1):
            self.waits.append(line())


def line() -> str:
    """The innermost line of the product that is running."""
    frame = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(SOURCE):
        frame = frame.f_back  # type: ignore[assignment]
    return "outside" if frame is None else f"{Path(frame.f_code.co_filename).relative_to(SOURCE)}:{frame.f_lineno}"


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from _tensors(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


def _target(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[torch.device | None, tuple[Any, ...], dict[str, Any]]:
    """The device that a call names, if any; and its arguments with the CPU in place of it."""
    if name == "cpu":
        return CPU, args, kwargs
    if name == "to" and len(args) > 1 and isinstance(args[1], Tensor):
        return (GPU if isinstance(args[1], Claimed) else CPU), (args[0], args[1].dtype, *args[2:]), kwargs
    target = None
    given = []
    for value in args:
        if isinstance(value, torch.device) or (name in ("to", "cuda") and isinstance(value, str)):
            target, value = torch.device(value), CPU
        given.append(value)
    if kwargs.get("device") is not None:
        target, kwargs = torch.device(kwargs["device"]), kwargs | {"device": CPU}
    if target is not None:
        target = GPU if target.type == "cuda" else CPU
    return target, tuple(given), kwargs
