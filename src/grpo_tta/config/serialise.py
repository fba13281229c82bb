"""How settings are written down: in `run.json`, in the hash of every record, and in a sweep's plan.

A part of the settings is written with its type, so that `TopK(5)` and `Sample(5)` differ. A user's own function is written as
its import path and a hash of its source, so that a changed reward is another setting.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

from grpo_tta.errors import UserError


def to_plain(value: Any) -> Any:
    """The value as JSON knows it: dataclasses as `{"type": NAME, field: …}`, functions by path and source.

    Raises:
        UserError: something that cannot be written down: two of them would look alike.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "__plain__"):
        return value.__plain__()
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__} | {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(to_plain(item) for item in value)
    if isinstance(value, functools.partial):
        return {"partial": to_plain(value.func), "arguments": to_plain(value.args), "keywords": to_plain(value.keywords)}
    if isinstance(value, FunctionType):
        return _function(value)
    raise UserError(f"{type(value).__name__} cannot be written down; make it a function, or a frozen dataclass with __call__.")


def _function(function: FunctionType) -> dict[str, Any]:
    described: dict[str, Any] = {"function": f"{function.__module__}:{function.__qualname__}", "source": source_hash(function)}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    if closed := {name: to_plain(cell.cell_contents) for name, cell in cells}:
        described["closure"] = closed
    if function.__defaults__ or function.__kwdefaults__:
        described["defaults"] = to_plain([list(function.__defaults__ or ()), function.__kwdefaults__ or {}])
    return described


def source_hash(function: Callable[..., Any]) -> str:
    """Hash of a function's source, or of its byte code where there is no source (typed at a prompt)."""
    try:
        content = inspect.getsource(function).encode()
    except (OSError, TypeError):
        content = function.__code__.co_code + repr(function.__code__.co_consts).encode()
    return hashlib.blake2b(content, digest_size=6).hexdigest()


def short_hash(content: Any) -> str:
    """Short hash of settings (see `to_plain`), of plain values, or of None."""
    return hashlib.blake2b(json.dumps(to_plain(content), sort_keys=True).encode(), digest_size=6).hexdigest()
