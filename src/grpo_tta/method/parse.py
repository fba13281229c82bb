"""Settings from text and back: `group=Nucleus(mass=0.9)`, `steps.count=3`, `reward=FILE.py:NAME`.

The right side is parsed with a whitelist: calls of known parts, literals, `+` and `*`. Nothing else is evaluated.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from types import FunctionType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from grpo_tta.engine.early_exit import Rounds
from grpo_tta.engine.optim import SGD, Adam
from grpo_tta.engine.parameters import LowRank, NormAffine
from grpo_tta.errors import UserError
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.candidates import Nucleus, Sample, TopK
from grpo_tta.method.from_file import FromFile
from grpo_tta.method.objective import Centred, Target, ZScore
from grpo_tta.method.prediction import Ensemble, StreamEnsemble, View0
from grpo_tta.method.rewards import Alignment, ContentFree, Reward, Semantic, StreamPrior, Sum
from grpo_tta.method.settings import GRPOSettings, Steps
from grpo_tta.method.weighting import ByEntropy, MostConfident

T = TypeVar("T")

CHOICES: Mapping[str, tuple[type[Any], ...]] = {
    "weighting": (ByEntropy, MostConfident),
    "group": (TopK, Sample, Nucleus),
    "reward": (Alignment, ContentFree, StreamPrior, Semantic),
    "advantage": (Target, ZScore, Centred),
    "tune": (NormAffine, LowRank),
    "steps": (Steps,),
    "optimizer": (SGD, Adam),
    "predict": (Ensemble, View0, StreamEnsemble),
    "early_exit": (Rounds,),
    "views": (ViewSettings,),
}
"""Setting -> the parts that it can be."""
OWN = ("group", "reward", "advantage")
"""Settings that can be a user's own function."""
PARTS: Mapping[str, type[Any]] = {part.__name__: part for parts in CHOICES.values() for part in parts}
_WORDS = {"none": None, "true": True, "false": False, "None": None, "True": True, "False": False}
_OWN_FUNCTION = re.compile(r"(?P<file>.+\.py):(?P<name>\w+)")


def change_settings(settings: T, assignments: Sequence[str]) -> T:
    """Settings with some of them changed, each by `NAME=VALUE` with a dotted name.

    Raises:
        UserError: an unknown name, a value that cannot be read, or one that does not fit the others.
    """
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not value.strip():
            raise UserError(f"{text!r} cannot be read; write NAME=VALUE, for example group=TopK(3).")
        settings = change(settings, name.strip(), parse_value(settings, name.strip(), value))
    return settings


def settable(settings: Any) -> dict[str, Any]:
    """Dotted name -> value of everything in these settings that can be changed."""
    found: dict[str, Any] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        found[field.name] = value
        if is_dataclass(value) and not isinstance(value, Sum | FromFile):
            found |= {f"{field.name}.{name}": inner for name, inner in settable(value).items()}
    return found


def get(settings: Any, name: str) -> Any:
    """The value of a dotted name.

    Raises:
        UserError: these settings have no such name.
    """
    known = settable(settings)
    if name not in known:
        near = [other for other in known if other.rpartition(".")[2] == name.rpartition(".")[2]]
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(known)}."
        raise UserError(f"{name!r} is no setting that can be changed; {hint}")
    return known[name]


def change(settings: T, name: str, value: Any) -> T:
    """The same settings with one dotted name changed.

    Raises:
        UserError: as the dataclass itself, where the value does not fit the others.
    """
    first, _, rest = name.partition(".")
    inner = change(getattr(settings, first), rest, value) if rest else value
    return replace(settings, **{first: inner})  # type: ignore[type-var]


def parse_value(settings: Any, name: str, text: str) -> Any:
    """The value of a dotted name from text: a part with its parameters, a number, `none`, `true`, a word, or a pair.

    Raises:
        UserError: no such name, or the text is no value of it.
    """
    get(settings, name)
    text = text.strip()
    owner = get(settings, name.rpartition(".")[0]) if "." in name else settings
    leaf = name.rpartition(".")[2]
    if (match := _OWN_FUNCTION.fullmatch(text)) and leaf in OWN:
        return FromFile.read(Path(match["file"]), match["name"])
    return _fitting(type(owner), leaf, _evaluate(text, name), text)


def _evaluate(text: str, name: str) -> Any:
    try:
        return _build(ast.parse(text, mode="eval").body)
    except UserError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UserError(f"{name}: {text!r} cannot be read; write a number, a word or a part, for example TopK(3).") from None


def _build(node: ast.expr) -> Any:
    """The value of an expression of the whitelist."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return value
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            return tuple(_build(element) for element in elements)
        case ast.UnaryOp(op=ast.USub(), operand=operand) if isinstance(value := _build(operand), int | float):
            return -value
        case ast.Name(id=word):
            return _WORDS.get(word, word)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _operate(left, right, lambda a, b: a + b)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _operate(left, right, lambda a, b: a * b)
        case ast.Call(func=ast.Name(id=part), args=arguments, keywords=keywords):
            return _call(part, arguments, keywords)
    raise UserError(f"{ast.unparse(node)!r} cannot stand in a setting; write parts with their parameters, numbers, + and *.")


def _operate(left: ast.expr, right: ast.expr, operation: Callable[[Any, Any], Any]) -> Any:
    a, b = _build(left), _build(right)
    if not any(isinstance(x, Reward) for x in (a, b)) or not all(isinstance(x, Reward | int | float) for x in (a, b)):
        raise UserError(f"{ast.unparse(left)!r} and {ast.unparse(right)!r} cannot be joined; rewards add up and take weights.")
    try:
        return operation(a, b)
    except TypeError:
        raise UserError(f"{ast.unparse(left)!r} and {ast.unparse(right)!r} cannot be joined so.") from None


def _call(name: str, arguments: Sequence[ast.expr], keywords: Sequence[ast.keyword]) -> Any:
    if name not in PARTS:
        raise UserError(f"Unknown part {name!r}; choose from {', '.join(PARTS)}.")
    part = PARTS[name]
    try:
        given = inspect.signature(part).bind(*map(_build, arguments), **{str(k.arg): _build(k.value) for k in keywords})
    except TypeError as error:
        takes = ", ".join(field.name for field in fields(part)) or "no parameters"
        raise UserError(f"{name} cannot be made so ({error}); it takes {takes}.") from None
    return part(**{key: _fitting(part, key, value, str(value)) for key, value in given.arguments.items()})


def _fitting(owner: type[Any], name: str, value: Any, text: str) -> Any:
    """A value as the field of a dataclass wants it.

    Raises:
        UserError: it is of another kind.
    """
    if name in CHOICES and name in {field.name for field in fields(owner)} and owner is not ViewSettings:
        return _part(name, value, text)
    hint = get_type_hints(owner)[name]
    if get_origin(hint) in (Union, UnionType):
        if value is None:
            return None
        (hint,) = (kind for kind in get_args(hint) if kind is not type(None))
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise UserError(f"{name} cannot be {text!r}; choose {', '.join(map(str, get_args(hint)))}.")
        return value
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        if not isinstance(value, tuple) or len(value) != len(inner):
            raise UserError(f"{name} cannot be {text!r}; write {len(inner)} values, for example (0.5, 1).")
        return tuple(_number(name, kind, part, text) for kind, part in zip(inner, value, strict=True))
    return _number(name, hint, value, text)


def _part(name: str, value: Any, text: str) -> Any:
    optional = name == "early_exit" and value is None
    own = name in OWN and isinstance(value, FromFile | FunctionType)
    if optional or own or isinstance(value, CHOICES[name]) or (name == "reward" and isinstance(value, Reward)):
        return value
    hint = " or FILE.py:NAME" if name in OWN else ""
    raise UserError(f"{name} cannot be {text!r}; choose {', '.join(part.__name__ for part in CHOICES[name])}{hint}.")


def _number(name: str, kind: Any, value: Any, text: str) -> Any:
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    wanted = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, str(kind))
    raise UserError(f"{name} cannot be {text!r}; write {wanted}.")


def show(value: Any) -> str:
    """A value as `parse_value` reads it: parts with the parameters that differ from their defaults."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return short if float(short := f"{value:g}") == value else repr(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(show, value))})"
    if isinstance(value, Sum):
        bare = len(value.terms) > 1  # without its weight a single term would be read as the reward itself
        return " + ".join(show(r) if w == 1 and bare else f"{show(w)} * {show(r)}" for w, r in value.terms)
    if isinstance(value, FromFile):
        return f"{value.path}:{value.name}"
    if is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: getattr(value, f.name) for f in fields(value) if getattr(value, f.name) != _default(f)}
        return f"{type(value).__name__}({', '.join(f'{name}={show(x)}' for name, x in changed.items())})"
    if isinstance(value, FunctionType):
        return value.__qualname__
    return str(value)


def _default(field: Any) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def from_plain(plain: Any) -> Any:
    """Settings from what `to_plain` wrote, user's own functions excepted.

    Raises:
        UserError: an unknown part, or a function, which its name alone does not bring back.
    """
    if isinstance(plain, list):
        return tuple(map(from_plain, plain))
    if not isinstance(plain, dict):
        return plain
    if "type" not in plain:
        raise UserError("A function of a user's own is written down by its name and source; import it and set it again.")
    kinds: dict[str, Any] = {**PARTS, "Sum": Sum, "GRPOSettings": GRPOSettings}
    if plain["type"] not in kinds:
        raise UserError(f"Unknown part {plain['type']!r}; these settings were written by another version.")
    return kinds[plain["type"]](**{name: from_plain(value) for name, value in plain.items() if name != "type"})
