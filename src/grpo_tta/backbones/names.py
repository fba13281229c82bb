"""From what the user calls a model to the library, and the place, that it is loaded from."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Literal, final

from grpo_tta.errors import UserError

SHIPPED = ("nano-clip", "photo-clip")
HUB = "hf-hub:"
FORMS = (
    "nano-clip, photo-clip, ARCHITECTURE/PRETRAINED of open_clip (ViT-B-16/openai), hf-hub:ORGANISATION/NAME of open_clip's "
    "hub, ORGANISATION/NAME of a CLIP or SigLIP in transformers' format, timm:NAME or torchvision:NAME of an image classifier, "
    "or a folder"
)


@final
@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        name: what the user called it.
        library: which one loads it.
        architecture, tag: of open_clip, for a model that open_clip itself knows; else empty.
        repository: id on the hub; else empty.
        folder: on this machine; else None.
        weights: a checkpoint that takes the place of its own weights; else None.
    """

    name: str
    library: Literal["open_clip", "transformers"]
    architecture: str = ""
    tag: str = ""
    repository: str = ""
    folder: Path | None = None
    weights: Path | None = None


def resolve(model: str, pretrained: Mapping[str, Sequence[str]], weights: str | Path | None = None) -> Source:
    """Reads a model's name.

    Args:
        model, weights: see `grpo_tta.backbones.base.load_backbone`.
        pretrained: architecture of open_clip -> the tags of its weights.

    Raises:
        UserError: no such folder, a name that can mean nothing (near matches are named), or a model that takes no weights.
    """
    if weights is None:
        return _resolve(model, pretrained)
    file = Path(weights).expanduser()
    source = Source(model, "open_clip", architecture=model) if model in pretrained else _resolve(model, pretrained)
    if source.library != "open_clip" or source.repository:
        raise UserError(
            f"{model} takes no --weights; name an architecture of open_clip (ViT-B-16), one with the weights that they were "
            "tuned from (ViT-B-16/openai), or a folder in open_clip's format."
        )
    return replace(source, name=f"{model} ({file.name})", weights=file)


def _resolve(model: str, pretrained: Mapping[str, Sequence[str]]) -> Source:
    if model in SHIPPED:
        return Source(model, "open_clip", folder=shipped_folder(model))
    path = Path(model).expanduser()
    if path.is_dir():
        return _folder(model, path)
    if model.startswith((".", "/", "~", "\\")) or model.endswith((".safetensors", ".pt", ".pth", ".bin")):
        raise UserError(f"{model}: no such model folder; give a folder with a model's configuration and its weights.")
    if model.startswith(HUB):
        repository = model.removeprefix(HUB)
        if not _is_repository(repository):
            raise UserError(f"{model!r} names no repository; write hf-hub:ORGANISATION/NAME.")
        return Source(model, "open_clip", repository=repository)
    first, slash, tag = model.partition("/")
    if first in pretrained:
        return _known(model, first, tag, pretrained[first])
    # A slip in an architecture's name must not be looked up on the hub as somebody's repository.
    slip = _closest(first, list(pretrained), 0.75)
    if slash and _is_repository(model) and not slip:
        return Source(model, "transformers", repository=model)
    near = _closest(model, [*SHIPPED, *(f"{name}/{tag}" for name, tags in pretrained.items() for tag in tags)], 0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"use {FORMS}."
    raise UserError(f"Unknown model {model!r}; {hint} All names are listed by: grpo-tta models")


def shipped_folder(model: str) -> Path:
    """Where a model of `SHIPPED` lies."""
    return Path(str(files("grpo_tta") / "models" / model))


def _folder(model: str, path: Path) -> Source:
    if (path / "open_clip_config.json").is_file():
        return Source(model, "open_clip", folder=path)
    if (path / "config.json").is_file():
        return Source(model, "transformers", folder=path)
    raise UserError(
        f"{model}: open_clip_config.json is missing, and so is transformers' config.json; give a folder in either format."
    )


def _known(model: str, architecture: str, tag: str, tags: Sequence[str]) -> Source:
    if tag in tags:
        return Source(model, "open_clip", architecture, tag)
    if not tags:
        raise UserError(f"open_clip knows no pretrained weights for {architecture}; give a folder or --weights with your own.")
    near = _closest(tag, list(tags), 0.6) if tag else []
    cause = f"{architecture} has no pretrained weights {tag!r}" if tag else f"{architecture} needs the name of its weights"
    choice = f"did you mean {' or '.join(near)}" if near else f"choose one of {', '.join(tags)}"
    raise UserError(f"{cause}; {choice}{'?' if near else f', for example {architecture}/{tags[0]}.'}")


def _is_repository(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None


def _closest(name: str, known: Sequence[str], cutoff: float) -> list[str]:
    """Up to three known names that resemble this one, whatever their case."""
    by_fold = {candidate.casefold(): candidate for candidate in known}
    if name.casefold() in by_fold:
        return [by_fold[name.casefold()]]
    return [by_fold[match] for match in difflib.get_close_matches(name.casefold(), by_fold, 3, cutoff)]
