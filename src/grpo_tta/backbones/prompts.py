"""Class prompts: labels and templates become one unit text feature per class, cached on disk.

t_c = normalise(mean over templates of normalised text features), as CLIP's own zero-shot classifier (arXiv 2103.00020).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from grpo_tta.backbones.base import Backbone
from grpo_tta.errors import UserError

DEFAULT_TEMPLATE = "a photo of a {}."


@final
@dataclass(frozen=True)
class ClassPrompts:
    """The classes of a task as a model reads them.

    Attributes:
        labels: C class names.
        templates: whose mean makes the text features.
        ensemble: templates that methods with a prompt ensemble of their own may use.
        features: `[C, D]`, unit length.
    """

    labels: tuple[str, ...]
    templates: tuple[str, ...]
    ensemble: tuple[str, ...]
    features: Tensor


def make_prompts(
    backbone: Backbone,
    labels: Sequence[str],
    templates: Sequence[str] = (DEFAULT_TEMPLATE,),
    ensemble: Sequence[str] = (),
    *,
    cache: bool = True,
    repeats: bool = False,
) -> ClassPrompts:
    """Checks labels and templates and encodes them.

    Args:
        repeats: two classes may share a name, as in OpenAI's names of ImageNet.

    Raises:
        UserError: labels or templates are unusable, or a prompt is longer than the model reads.
    """
    labels, templates = check_labels(labels, repeats=repeats), check_templates(templates)
    ensemble = check_templates(ensemble) if ensemble else templates
    return ClassPrompts(labels, templates, ensemble, text_features(backbone, labels, templates, cache=cache))


def check_labels(labels: Sequence[str], *, repeats: bool = False) -> tuple[str, ...]:
    """Labels without surrounding blanks.

    Raises:
        UserError: fewer than two labels, an empty one, or (unless `repeats`) one that occurs twice.
    """
    if isinstance(labels, str):
        raise UserError("Labels must be a list of class names; split the string first.")
    clean = tuple(label.strip() for label in labels)
    if any(not label for label in clean):
        raise UserError(f"Label {clean.index('') + 1} is empty; remove it or name it.")
    if len(clean) < 2:
        raise UserError(f"{len(clean)} label(s) given, but classification needs at least two; add labels.")
    twice = [label for label, n in Counter(clean).items() if n > 1]
    if twice and not repeats:
        raise UserError(f"Label {twice[0]!r} occurs more than once; remove the duplicate.")
    return clean


def check_templates(templates: Sequence[str]) -> tuple[str, ...]:
    """Templates that each hold one `{}`.

    Raises:
        UserError: no template, or one without exactly one pair of braces.
    """
    if isinstance(templates, str):
        templates = (templates,)
    if not templates:
        raise UserError(f"No template was given; use for example {DEFAULT_TEMPLATE!r}.")
    for template in templates:
        if template.count("{}") != 1 or template.replace("{}", "").count("{") or template.replace("{}", "").count("}"):
            raise UserError(f"Template {template!r} must hold exactly one {{}} where the label goes.")
    return tuple(templates)


def cache_folder() -> Path:
    """Where text features are kept: $GRPO_TTA_CACHE, else the user's cache folder."""
    if folder := os.environ.get("GRPO_TTA_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "grpo-tta"


@torch.no_grad()
def encode_classes(backbone: Backbone, labels: Sequence[str], templates: Sequence[str], *, batch: int = 256) -> Tensor:
    """Text features of the classes, `[C, D]` float32, unit length, computed anew."""
    prompts = [template.format(label) for label in labels for template in templates]
    features = torch.cat([backbone.encode_text(prompts[i : i + batch]).float() for i in range(0, len(prompts), batch)])
    if not torch.isfinite(features).all():
        raise UserError(f"The text backbone of {backbone.name} returned NaN or infinite features; its weights are damaged.")
    features = torch.nn.functional.normalize(features, dim=-1).reshape(len(labels), len(templates), -1).mean(1)
    return torch.nn.functional.normalize(features, dim=-1)


def text_features(
    backbone: Backbone, labels: Sequence[str], templates: Sequence[str] = (DEFAULT_TEMPLATE,), *, cache: bool = True
) -> Tensor:
    """Text features of the classes, `[C, D]` float32 on the backbone's device, from the cache where it holds them.

    The key is a hash of (weights, precision, labels, templates); an entry is written to a temporary file first, so that
    two processes never see half of one. A cache that cannot be read or written is left aside.

    Raises:
        UserError: labels or templates are unusable, or a prompt is longer than the model reads.
    """
    labels, templates = check_labels(labels, repeats=True), check_templates(templates)
    key = json.dumps([backbone.fingerprint, str(backbone.dtype), labels, templates])
    path = cache_folder() / "text" / (hashlib.blake2b(key.encode(), digest_size=20).hexdigest() + ".safetensors")
    if cache and path.is_file():
        try:
            return load_file(path)["text_features"].to(backbone.device)
        except Exception:  # a damaged entry costs a recomputation, never a wrong answer
            path.unlink(missing_ok=True)
    features = encode_classes(backbone, labels, templates)
    if cache:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}.partial")
            save_file({"text_features": features.cpu().contiguous()}, partial)
            partial.replace(path)
        except OSError:
            pass  # a read-only home is no reason to fail
    return features
