"""Labels: files of them, labels as they stand in data, and the names that prompts hold."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import pyarrow as pa

from grpo_tta.backbones.imagenet_classes import class_names as imagenet_names
from grpo_tta.errors import UserError, as_text, first_line
from grpo_tta.images.read import stat_of

_WORDNET_ID = re.compile(r"n\d{8}")
_ENCODINGS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_labels(path: Path) -> dict[str, str]:
    """Labels in their order, with the name of each for the prompts.

    A text file holds one name per line; label and name are the same. Two of OpenAI's names of ImageNet's classes occur twice,
    and are taken: the second label of a name is numbered (`number_repeated`). A .json file holds {label: name}, or {label:
    [name, other names …]}, of which the first is taken. Both may be UTF-8, or UTF-16 with its byte order mark. A pipe is read
    as well; it holds JSON where it begins with a brace.

    Raises:
        UserError: the file is missing, not readable, holds no name, a name that is none, a comment, or a label twice.
    """
    text = _text_of(path)
    is_json = path.suffix.lower() == ".json" or (not path.is_file() and text.lstrip().startswith("{"))
    names = _of_json(text, path) if is_json else _of_lines(text, path)
    if not names:
        raise UserError(f"{path}: no class names in it; write one per line.")
    return names


def _text_of(path: Path) -> str:
    found = stat_of(path)
    if found is None:
        raise UserError(f"{path}: no such labels file; give a text file with one class name per line.")
    if S_ISDIR(found.st_mode):
        raise UserError(f"{path}: a folder and no labels file; give a text file with one class name per line.")
    try:
        content = path.read_bytes()
        encoding = next((name for mark, name in _ENCODINGS.items() if content.startswith(mark)), "utf-8")
        text = content.decode(encoding)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text; save it as UTF-8"
        raise UserError(f"{path}: not a readable labels file ({why}).") from None
    if "\0" in text:
        raise UserError(f"{path}: not a readable labels file (it holds zero bytes; save it as UTF-8 text).")
    return text


def _of_lines(text: str, path: Path) -> dict[str, str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        if line.startswith("#"):
            raise UserError(f"{path}: {line!r} would be a class; a labels file holds no comments, remove the line.")
    if len(set(lines)) < len(lines) and set(lines) <= set(imagenet_names().values()) and names_may_repeat(lines):
        return number_repeated(lines)
    _refuse_twice(lines, path)
    return {line: line for line in lines}


def _of_json(text: str, path: Path) -> dict[str, str]:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        _refuse_twice([key for key, _ in found], path)  # of two, json would silently keep the last
        return dict(found)

    try:
        content = json.loads(text, object_pairs_hook=pairs)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a readable labels file ({first_line(error)}).") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not an object of label and name; write {{label: name, …}}.")
    names = {label: name[0] if isinstance(name, list) and name else name for label, name in content.items()}
    if wrong := [label for label, name in names.items() if not isinstance(name, str) or not name.strip()]:
        raise UserError(f"{path}: the name of {wrong[0]!r} is {names[wrong[0]]!r}; write a text, or a list of texts.")
    return names


def _refuse_twice(labels: Iterable[str], path: Path) -> None:
    twice = [label for label, n in Counter(labels).items() if n > 1]
    if twice:
        raise UserError(f"{path}: {twice[0]!r} occurs more than once; remove the duplicate.")


def number_repeated(names: Iterable[str]) -> dict[str, str]:
    """A label for each name: the name itself, or `missile (2)` for the second class of the name "missile"."""
    labels: dict[str, str] = {}
    for name in names:
        label, count = name, 1
        while label in labels:
            count += 1
            label = f"{name} ({count})"
        labels[label] = name
    return labels


def class_names(names: Mapping[str, str]) -> tuple[str, ...]:
    """Names of labels as prompts hold them."""
    return tuple(name.replace("_", " ") for name in names.values())


def own_names(labels: Sequence[str], where: Path | str) -> dict[str, str]:
    """Labels as they stand in the data, each as its own name. WordNet ids of ImageNet's classes get OpenAI's names for them.

    Raises:
        UserError: there is one alone, they are numbers, or WordNet ids of other classes: "a photo of a n00000001." would be
            scored without a word.
    """
    if len(labels) == 1:
        raise UserError(
            f"{where}: {labels[0]!r} is the only class, and classification needs two; sort the images into a folder per class, "
            "write a .csv of path,label, or name the other classes with --labels-file."
        )
    if all(map(_is_number, labels)):
        raise UserError(
            f'{where}: the labels are numbers; name them in a file for --labels-file, such as {{"0": "cat"}} (.json).'
        )
    if not any(map(_WORDNET_ID.fullmatch, labels)):
        return {label: label for label in labels}
    known = imagenet_names()
    if strange := [label for label in labels if _WORDNET_ID.fullmatch(label) and label not in known]:
        raise UserError(
            f"{where}: the label {strange[0]} is a WordNet id, but none of ImageNet's 1,000 classes; name the labels in a file "
            f'for --labels-file, such as {{"{strange[0]}": "cat"}} (.json).'
        )
    return {label: known.get(label, label) for label in labels}


def names_may_repeat(names: Iterable[str]) -> bool:
    """Whether the names that occur twice are those that occur twice among OpenAI's names of ImageNet's classes.

    Two classes of one name are an exact tie. The published figures of ImageNet hold two such pairs, so they are allowed.
    """
    twice = {name: n for name, n in Counter(names).items() if n > 1}
    return bool(twice) and all(n <= Counter(imagenet_names().values())[name] for name, n in twice.items())


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True


def texts_of(column: pa.ChunkedArray, field: pa.Field, metadata: Mapping[bytes, bytes] | None, where: Path | str) -> list[str]:
    """A Parquet column of labels or ids as text, "" where a row has none.

    Text, numbers, bytes of UTF-8 text, and dictionaries of these are taken. Numbers of Hugging Face's `ClassLabel` become the
    names that the file's metadata give them.

    Raises:
        UserError: the column holds something else (truth values, lists, structs), or bytes that are no text.
    """
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    names = _class_label_names(field.name, metadata)
    if pa.types.is_integer(kind) and names is not None:
        numbers = column.to_pylist()
        # -1 stands for "no label"
        if wrong := [n for n in numbers if n is not None and not -1 <= n < len(names)]:
            raise UserError(f"{where}: the label {wrong[0]} of {field.name!r} has no name; the file names {len(names)}.")
        return ["" if n is None or n < 0 else names[n] for n in numbers]
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        try:
            return ["" if v is None else v.decode() for v in column.to_pylist()]
        except UnicodeDecodeError:
            raise UserError(f"{where}: the column {field.name!r} holds bytes that are no UTF-8 text; write text.") from None
    if not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise UserError(
            f"{where}: the column {field.name!r} holds {kind} and no text; write names, or numbers and --labels-file."
        )
    return ["" if v is None else str(v) for v in column.to_pylist()]


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind)


def _class_label_names(column: str, metadata: Mapping[bytes, bytes] | None) -> list[str] | None:
    """The names that Hugging Face's data sets keep beside a column of numbers; None where there are none."""
    try:
        feature = json.loads((metadata or {})[b"huggingface"])["info"]["features"][column]
        names = feature["names"] if feature.get("_type") == "ClassLabel" else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return [as_text(str(name)) for name in names] if isinstance(names, list) else None
