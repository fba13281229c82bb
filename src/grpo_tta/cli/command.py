"""Commands whose options are the fields of one frozen dataclass: declared once, passed on whole, and written out again.

A field is annotated as a parameter of a typer command is (`Annotated[int, typer.Option(help=…)]`). Imports nothing heavy.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from typer.models import ArgumentInfo, OptionInfo

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")


def command_of(options: type[Options]) -> Callable[[Callable[[Options], None]], Callable[..., None]]:
    """Makes a typer command of a function that takes the dataclass `options`; help and order are those of its fields."""
    hints = get_type_hints(options, include_extras=True)
    parameters = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=_default(field), annotation=hints[field.name])
        for field in fields(options)
    ]

    def decorate(run: Callable[[Options], None]) -> Callable[..., None]:
        @functools.wraps(run)
        def command(**values: Any) -> None:
            run(options(**values))

        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = hints
        return command

    return decorate


def command_line(options: DataclassInstance, without: Collection[str] = ()) -> list[str]:
    """The options as words of a command line. Those at their default are left out, and so are arguments.

    Args:
        options: what a command made by `command_of` was given.
        without: names of fields that are left out as well.
    """
    hints = get_type_hints(type(options), include_extras=True)
    words: list[str] = []
    for field in fields(options):
        value = getattr(options, field.name)
        flag = _flag(field.name, hints[field.name])
        if flag is None or field.name in without or value == _default(field):
            continue
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, list | tuple):
            words += [word for one in value for word in (flag, str(one))]
        else:
            words += [flag, str(value)]
    return words


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return inspect.Parameter.empty if field.default is MISSING else field.default


def _flag(name: str, hint: Any) -> str | None:
    """The option's long name; None for an argument."""
    (info,) = (each for each in hint.__metadata__ if isinstance(each, OptionInfo | ArgumentInfo))
    if isinstance(info, ArgumentInfo):
        return None
    # typer keeps the first of an annotated option's names where its default would stand
    names = [info.default, *(info.param_decls or ())]
    declared = [each for each in names if isinstance(each, str) and each.startswith("--")]
    return declared[0] if declared else "--" + name.replace("_", "-")
