"""Class prompts: labels and templates become one unit text feature per class, cached on disk.

t_c = normalise(mean over templates of normalised text features), as CLIP's own zero-shot classifier (arXiv 2103.00020).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from grpo_tta.backbones.base import Backbone, HasClassRows
from grpo_tta.errors import UserError, counted

DEFAULT_TEMPLATE = "a photo of a {}."
_ROWS = 1024  # of features that are compared with all others at a time
_log = logging.getLogger(__name__)


@final
@dataclass(frozen=True)
class ClassPrompts:
    """The classes of a task as a model reads them.

    Attributes:
        labels: C class names.
        templates: whose mean makes the text features.
        ensemble: templates that methods with a prompt ensemble of their own may use.
        features: `[C, D]`, unit length; the rows of an image classifier as they are.
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
        UserError: labels or templates are unusable, a prompt is longer than the model reads, the model reads two different
            labels alike, or a label is none of an image classifier's classes.
    """
    labels, templates = check_labels(labels, repeats=repeats), check_templates(templates)
    ensemble = check_templates(ensemble) if ensemble else templates
    if isinstance(backbone, HasClassRows):
        return ClassPrompts(labels, templates, ensemble, backbone.class_rows(labels))
    features = text_features(backbone, labels, templates, cache=cache)
    if alike := _read_alike(backbone, labels, templates[0], features):
        raise UserError(
            f"{backbone.name} reads the labels {alike[0]!r} and {alike[1]!r} alike, and would never answer the second; "
            "rename or remove one."
        )
    return ClassPrompts(labels, templates, ensemble, features)


def _read_alike(backbone: Backbone, labels: Sequence[str], template: str, features: Tensor) -> tuple[str, str] | None:
    """Two different labels that are the same to the text encoder, such as `Star` and `star` after a tokenizer that lowers case.

    Labels are compared as tokens; by their features where a backbone has no `tokenize`.
    """
    if (tokenize := getattr(backbone, "tokenize", None)) is not None:
        tokens = tokenize([template.format(label) for label in labels]).cpu().numpy()
        first: dict[bytes, str] = {}
        for label, row in zip(labels, tokens, strict=True):
            if (other := first.setdefault(row.tobytes(), label)) != label:
                return other, label
        return None
    for start in range(0, len(labels), _ROWS):
        near = features[start : start + _ROWS] @ features.T > 1 - 1e-6
        for row, column in near.triu(1 + start).nonzero().tolist():
            if labels[start + row] != labels[column]:
                return labels[start + row], labels[column]
    return None


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
        raise UserError(f"{counted(len(clean), 'label')} given, but classification needs at least two; add labels.")
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


def cache_folder() -> Path | None:
    """Where text features are kept: $GRPO_TTA_CACHE, else the user's cache folder; None where the user has none."""
    if folder := os.environ.get("GRPO_TTA_CACHE"):
        return Path(folder)
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "grpo-tta"
    try:
        return Path.home() / ".cache" / "grpo-tta"
    except RuntimeError:  # no HOME, and no entry of the user either
        return None


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
    two processes never see half of one. A cache that cannot be read or written is left aside with a warning.

    Raises:
        UserError: labels or templates are unusable, or a prompt is longer than the model reads.
    """
    labels, templates = check_labels(labels, repeats=True), check_templates(templates)
    key = json.dumps([backbone.fingerprint, str(backbone.dtype), labels, templates])
    path = _entry(key) if cache else None
    if path is not None and (kept := _load(path, len(labels))) is not None:
        return kept.to(backbone.device)
    features = encode_classes(backbone, labels, templates)
    if path is not None:
        _keep(path, features)
    return features


def _entry(key: str) -> Path | None:
    folder = cache_folder()
    if folder is None:
        _leave_aside(RuntimeError("there is no home folder"))
        return None
    return folder / "text" / (hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=20).hexdigest() + ".safetensors")


def _load(path: Path, classes: int) -> Tensor | None:
    """Text features that were kept; None where there are none, or where the entry is damaged or another user's."""
    try:
        if not path.is_file():
            return None
        features = load_file(path)["text_features"]
        if features.ndim != 2 or len(features) != classes or not torch.isfinite(features).all():
            raise ValueError("not the features of these classes")
        return features
    except Exception as error:  # a damaged entry costs a recomputation, never a wrong answer
        _leave_aside(error)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return None


def _keep(path: Path, features: Tensor) -> None:
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"text_features": features.cpu().contiguous()}, partial)
        partial.replace(path)
    except Exception as error:  # a full disk or a read-only home is no reason to fail; safetensors has errors of its own
        _leave_aside(error)
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _leave_aside(error: Exception) -> None:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    _warn_once(str(cache_folder()), (why.splitlines() or [type(error).__name__])[0])


@functools.cache  # a run of many tasks says it once
def _warn_once(folder: str, why: str) -> None:
    _log.warning(
        "The cache of text features in %s is left aside (%s); set GRPO_TTA_CACHE to a folder of your own.", folder, why
    )
