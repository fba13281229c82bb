"""`--config FILE`: options of a command from a TOML file. What the command line says wins. Imports nothing heavy."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from grpo_tta.errors import UserError


class _Command(Protocol):
    """What is needed of a command, of click or of typer."""

    params: list[Any]


def _read(context: typer.Context, file: Path | None) -> Path | None:
    """Makes the file's values the defaults of the command that is being read."""
    if file is not None:
        context.default_map = {**(context.default_map or {}), **read_config(file, context.command)}
    return file


Config = Annotated[
    Path | None,
    typer.Option(
        callback=_read,
        is_eager=True,
        help="TOML file of these options' names and values, for example top-k = 3. The command line wins.",
    ),
]


def read_config(file: Path, command: _Command) -> dict[str, Any]:
    """The values of a TOML file by the names of the command's parameters.

    Raises:
        UserError: the file cannot be read, an option does not exist, or a value is of the wrong kind.
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{file}: the configuration cannot be read ({error.strerror}); check the path.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not TOML ({error}); write lines such as top-k = 3.") from None
    options = {
        name.removeprefix("--"): option
        for option in command.params
        for name in (*option.opts, *option.secondary_opts)
        if name.startswith("--") and option.name not in ("help", "config")
    }
    return {option.name or key: value for key, option, value in _checked(file, content, options)}


def _checked(file: Path, content: dict[str, Any], options: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    found = []
    for key, value in content.items():
        option = options.get(key.replace("_", "-"))
        if option is None:
            near = difflib.get_close_matches(key, options, 1)
            hint = f"did you mean {near[0]}?" if near else "use the names of --help without the dashes."
            raise UserError(f"{file}: unknown option {key!r}; {hint}")
        if isinstance(value, dict) or isinstance(value, bool) != bool(option.is_flag):
            raise UserError(f"{file}: {key} takes {'true or false' if option.is_flag else 'text or a number'}, not {value!r}.")
        found.append((key, option, _as_given(file, key, value, option.multiple)))
    return found


def _as_given(file: Path, key: str, value: Any, multiple: bool) -> Any:
    """The value as the command line would have it: lists of an option that is given once stand between commas."""
    if multiple:
        return value if isinstance(value, list) else [value]
    if not isinstance(value, list):
        return value
    if commas := [each for each in value if "," in str(each)]:
        raise UserError(f"{file}: {key} holds {commas[0]!r}, with a comma in it; use a file of names (labels-file).")
    return ",".join(str(each) for each in value)


def without_those_of(file: Path | None, given: Mapping[str, str]) -> Mapping[str, str]:
    """Of options that exclude each other, those of the command line, if it names any; else all of them.

    Args:
        file: that of `--config`.
        given: field -> option, of those that have a value.
    """
    if file is None or not file.is_file():  # a pipe is read only once
        return given
    named = {key.replace("_", "-") for key in tomllib.loads(file.read_text(encoding="utf-8-sig"))}
    return {name: option for name, option in given.items() if option not in named} or given
