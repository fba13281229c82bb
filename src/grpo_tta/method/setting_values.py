"""Settings by dotted name and text: `rewards.content_free` and `0.1` to a changed frozen dataclass."""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from grpo_tta.errors import UserError

T = TypeVar("T")
NONE = "none"


def settable(kind: type[Any]) -> dict[str, Any]:
    """Dotted name -> annotated type of every field of a (nested) dataclass, in the order of the fields."""
    hints = get_type_hints(kind)
    out: dict[str, Any] = {}
    for field in fields(kind):
        hint = hints[field.name]
        if is_dataclass(hint) and isinstance(hint, type):
            out |= {f"{field.name}.{name}": inner for name, inner in settable(hint).items()}
        else:
            out[field.name] = hint
    return out


def get(settings: Any, name: str) -> Any:
    """The value of a dotted name."""
    for part in name.split("."):
        settings = getattr(settings, part)
    return settings


def change(settings: T, name: str, value: Any) -> T:
    """The same settings with one dotted name changed.

    Raises:
        UserError: as the dataclass itself, where the value does not fit the others.
    """
    first, _, rest = name.partition(".")
    inner = change(getattr(settings, first), rest, value) if rest else value
    return replace(settings, **{first: inner})  # type: ignore[type-var]


def parse(name: str, hint: Any, text: str) -> Any:
    """A value of the annotated type from text: `none`, `true`, `0.1`, a choice, or `0.5:1` for two numbers.

    Raises:
        UserError: the text is no such value.
    """
    text = text.strip()
    if get_origin(hint) in (Union, types.UnionType):
        if text.lower() == NONE:
            return None
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is Literal:
        if text not in get_args(hint):
            raise UserError(f"{name} cannot be {text!r}; choose {', '.join(map(str, get_args(hint)))}.")
        return text
    if get_origin(hint) is tuple:
        inner, parts = get_args(hint), text.split(":")
        if len(parts) != len(inner):
            raise UserError(f"{name} cannot be {text!r}; write {len(inner)} values joined by a colon, for example 0.5:1.")
        return tuple(parse(name, kind, part) for kind, part in zip(inner, parts, strict=True))
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise UserError(f"{name} cannot be {text!r}; write true or false.")
        return text.lower() == "true"
    if hint is int or hint is float:
        try:
            return hint(text)
        except ValueError:
            kind = "a whole number" if hint is int else "a number"
            raise UserError(f"{name} cannot be {text!r}; write {kind}.") from None
    raise TypeError(f"{name}: values of type {hint} cannot be read from text.")


def show(value: Any) -> str:
    """A value as `parse` reads it."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ":".join(map(show, value))
    if isinstance(value, float) and float(short := f"{value:g}") == value:
        return short
    return str(value)
