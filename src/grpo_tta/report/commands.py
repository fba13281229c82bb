"""The command that makes recorded rows again, from what `run.json` says of them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from grpo_tta.backbones.prompts import DEFAULT_TEMPLATE

OUT = "runs/again"
_SUITE, _OWN, _BENCHMARK = "suite", "data", "dataset"
_WITH_ASSIGNMENTS = re.compile(r"grpo-tta\[(.+)\]")


@final
@dataclass(frozen=True)
class Commands:
    """
    Attributes:
        model: its name, as the records have it.
        sources: task -> `Task.source`.
        teachers: method -> the model that scores, where there is one.
        limits: method -> images per task, where it saw fewer than the others.
        dtype: of the frozen visual encoder.
    """

    model: str
    sources: Mapping[str, Mapping[str, Any]]
    teachers: Mapping[str, str | None] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    dtype: str = "float32"

    def lines(self, tasks: Sequence[str], methods: Sequence[str], seeds: Sequence[int]) -> str:
        """One command per kind of data, a line each. A run has a folder of its own, so several lie below one.

        Empty where the records do not say where the images came from, or where no command runs the methods together: it takes
        one teacher, one limit for expensive methods, and one set of the user's own settings.
        """
        taught = {teacher for name in methods if (teacher := self.teachers.get(name))}
        limits = {self.limits[name] for name in methods if name in self.limits}
        own = [found[1] for name in methods if (found := _WITH_ASSIGNMENTS.fullmatch(name))]
        if max(len(taught), len(limits), len(own)) > 1:
            return ""
        how = [*self._model(), *_methods([name.removesuffix(f"+{self.teachers.get(name)}") for name in methods], own)]
        how += ["--limit-heavy", *map(str, limits)] if limits else []
        how += ["--teacher", *taught] if taught else []
        how += ["--dtype", self.dtype] if self.dtype != "float32" else []
        commands = [["grpo-tta", "bench", *data, *how, *_seeds(seeds)] for data in self._data(tasks)]
        folders = [OUT] if len(commands) == 1 else [f"{OUT}/{number}" for number in range(1, len(commands) + 1)]
        return "\n".join(shlex.join([*words, "--out", folder]) for words, folder in zip(commands, folders, strict=True))

    def _data(self, tasks: Sequence[str]) -> list[list[str]]:
        """The options that name the images, for each kind of data."""
        groups: dict[tuple[str, ...], list[str]] = {}
        for task in tasks:
            source = self.sources.get(task) or {}
            if (words := _data(source)) is not None:
                groups.setdefault(words, []).append(str(source["task"]) if _SUITE in source else "")
        of_suite = {words: ["--tasks", ",".join(dict.fromkeys(names))] if any(names) else [] for words, names in groups.items()}
        return [[*words, *more] for words, more in of_suite.items()]

    def _model(self) -> list[str]:
        """The option that names the model; a checkpoint beside an architecture is written `NAME (FILE)`."""
        if found := re.fullmatch(r"(.+) \((.+)\)", self.model):
            return ["--model", found[1], "--weights", found[2]]
        return ["--model", self.model]


def _data(source: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The options that name the images, but for the task of a suite; None where it is not known."""
    words: list[str] = []
    if _SUITE in source:
        if source[_SUITE] != "nano":
            words += ["--suite", str(source[_SUITE]), "--photos-root", "DATA"]
        words += ["--split", str(source["split"])] if source["split"] != "reporting" else []
    elif _OWN in source:
        words += ["--data", str(source[_OWN])]
        words += ["--labels-file", str(source["labels_file"])] if source.get("labels_file") else []
    elif _BENCHMARK in source:
        words += ["--dataset", str(source[_BENCHMARK]), "--root", str(source["root"])]
        words += ["--split", str(source["split"])] if source["split"] != "reporting" else []
        words += ["--official-split"] if source.get("official") else []
        words += ["--allow-missing"] if source.get("allow_missing") else []
    else:
        return None
    if "corruption" in source and "severity" not in source:
        return None
    template = source.get("template", DEFAULT_TEMPLATE)
    words += ["--template", str(template)] if template != DEFAULT_TEMPLATE else []
    words += ["--limit", str(source["limit"])] if source.get("limit") else []
    if "corruption" in source:
        words += ["--corruptions", str(source["corruption"]), "--severities", str(source["severity"])]
    return tuple(words)


def _methods(names: Sequence[str], own: Sequence[str]) -> list[str]:
    """Methods by name, and grpo-tta with the assignments that a name holds."""
    plain = [name for name in dict.fromkeys(names) if not _WITH_ASSIGNMENTS.fullmatch(name)] or ["zero-shot"]
    return ["--methods", ",".join(plain), *(word for text in own for one in split_outside(text) for word in ("--set", one))]


def split_outside(text: str) -> list[str]:
    """What stands between the commas that are in no brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _seeds(seeds: Sequence[int]) -> list[str]:
    if len(seeds) == 1:
        return ["--seed", str(seeds[0])] if seeds[0] else []
    return ["--seeds", ",".join(map(str, seeds))]
