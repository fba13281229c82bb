"""The Python lines and the command that give an answer of the page again. No Gradio."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from grpo_tta.app.shifts import Shift
from grpo_tta.backbones.prompts import DEFAULT_TEMPLATE


@final
@dataclass(frozen=True)
class Asked:
    """What the page was asked.

    Attributes:
        file: name of the image's file.
        kind, severity: how the image was shifted.
    """

    file: str
    labels: Sequence[str]
    kind: Shift
    severity: int
    model: str
    preset: str
    template: str


def python_lines(asked: Asked, size: int) -> str:
    """
    Args:
        size: side of the model's input in pixels.
    """
    shifted = asked.kind != "none"
    lines = ["from grpo_tta import GRPOTTA"]
    if shifted:
        lines += ["from grpo_tta.app.shifts import shift", "from grpo_tta.images.read import load_image"]
    lines += ["", f"image = {asked.file!r}"]
    if shifted:
        lines.append(f"image = shift(load_image(image), {asked.kind!r}, {asked.severity}, {size})")
    options = f", templates={asked.template!r}" if asked.template != DEFAULT_TEMPLATE else ""
    options += f", settings={asked.preset!r}" if asked.preset != "default" else ""
    lines.append(f"classifier = GRPOTTA({asked.model!r}, {list(asked.labels)!r}{options})")
    lines.append("print(classifier.predict(image))")
    return "\n".join(lines)


def command(asked: Asked) -> str:
    """The command; empty where the image was shifted, which no command does."""
    return command_of_many([asked.file], asked) if asked.kind == "none" else ""


def command_of_many(files: Sequence[str], asked: Asked, *, stream: bool = False) -> str:
    """The command for several images.

    Args:
        files: their names, in order.
        asked: model, labels, template and preset; its own file does not count.
        stream: the images are one stream, which no preset changes.
    """
    words = ["grpo-tta", "predict", *(f"./{file}" if file.startswith("-") else file for file in files)]
    words += ["--labels", ",".join(asked.labels), "--model", asked.model]
    words += ["--template", asked.template] if asked.template != DEFAULT_TEMPLATE else []
    if stream:
        words.append("--online")
    elif asked.preset != "default":
        words += ["--preset", asked.preset]
    return shlex.join(words)
