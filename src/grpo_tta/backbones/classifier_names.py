"""From what the user calls an image classifier to the library, or the folder, that it is loaded from."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from grpo_tta.errors import UserError

_FORM = re.compile(r"(?:(timm|torchvision):)?(.+?)(?:@(\d+))?")


@final
@dataclass(frozen=True)
class ClassifierSource:
    """Where an image classifier comes from.

    Attributes:
        name: what the user called it.
        library: whose network it is.
        architecture: its name there; empty for a folder, which says it itself.
        folder: in timm's format; else None.
        size: of the input in pixels, where the user named one.
    """

    name: str
    library: Literal["timm", "torchvision"]
    architecture: str = ""
    folder: Path | None = None
    size: int | None = None


def classifier_source(model: str) -> ClassifierSource | None:
    """An image classifier: timm:NAME, torchvision:NAME, timm:FOLDER or FOLDER, each perhaps with @SIZE behind it; None for a
    model of another kind.

    Raises:
        UserError: a folder that is no image classifier's was named as one.
    """
    whole = Path(model).expanduser()
    if os.path.isdir(whole):  # noqa: PTH112  # what cannot be entered is none; perhaps with an @ in its name
        return ClassifierSource(model, "timm", folder=whole) if _is_timms(whole) else None
    found = _FORM.fullmatch(model)
    if found is None:
        return None
    library, name, size = found.groups()
    pixels, folder = int(size) if size else None, Path(name).expanduser()
    if os.path.isdir(folder):  # noqa: PTH112
        if _is_timms(folder):
            return ClassifierSource(model, "timm", folder=folder, size=pixels)
        raise UserError(f"{name} holds no image classifier in timm's format; its config.json names no architecture.")
    if library is None:
        return None
    return ClassifierSource(model, "timm" if library == "timm" else "torchvision", architecture=name, size=pixels)


def _is_timms(folder: Path) -> bool:
    if (folder / "open_clip_config.json").is_file():
        return False
    try:
        content = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):  # whoever loads it says so
        return False
    return isinstance(content, dict) and "architecture" in content and "model_type" not in content
