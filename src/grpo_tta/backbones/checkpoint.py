"""A checkpoint of open_clip in a file of its own: what trainers wrap around the weights is taken off.

Nothing of a file is ever executed: weights are read from safetensors, or by torch with `weights_only=True`.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from grpo_tta.errors import UserError, first_line

_log = logging.getLogger(__name__)
EMA = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
PLAIN = ("state_dict", "model_state_dict", "model", "weights", "module")
PREFIXES = ("module.", "_orig_mod.", "model.", "clip.")
"""Of DistributedDataParallel, of `torch.compile`, and of classes that hold the model in an attribute."""


@final
@dataclass(frozen=True)
class Checkpoint:
    """
    Attributes:
        file: where it was read.
        weights: name -> tensor, by the names of open_clip's models.
        digest: SHA-256 of the file.
        entry: where in the file they stood; "" for a file of weights alone.
    """

    file: Path
    weights: Mapping[str, Tensor]
    digest: str
    entry: str


def read_checkpoint(file: Path) -> Checkpoint:
    """Reads a checkpoint of weights alone, or of a trainer with epoch, optimizer and the like beside them.

    Where it holds averaged weights (EMA) beside the last ones, the averaged ones are taken, as timm does: they are what
    training was to produce. A warning says so.

    Raises:
        UserError: the file is not there, is damaged, or holds no weights.
    """
    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file}: the weights cannot be read ({error.strerror}); check the path.") from None
    content = _read(file)
    entry, weights = _weights_of(content)
    if not weights:
        keys = ", ".join(sorted(map(str, content))[:5]) if isinstance(content, Mapping) else type(content).__name__
        raise UserError(f"{file}: no weights were found in it (it holds {keys or 'nothing'}); give a state_dict of open_clip.")
    if entry.partition(".")[0] in EMA and any(name in content for name in PLAIN):
        _log.warning(f"{file}: its averaged weights (EMA, entry {entry!r}) are taken, not the last ones of training.")
    return Checkpoint(file, _without_prefixes(weights), digest, entry)


def _read(file: Path) -> Any:
    try:
        if file.suffix.lower() == ".safetensors":
            return load_file(file)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*TorchScript archive")  # it is refused with a sentence below
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        remedy = "in the program that wrote it, save the weights alone: torch.save(model.state_dict(), FILE)"
        raise UserError(f"{file}: more than weights is in it, or it is damaged, so it is not opened; {remedy}.") from None
    except (RuntimeError, ValueError, EOFError, OSError, SafetensorError) as error:
        if "TorchScript" in str(error):
            raise UserError(
                f"{file}: a TorchScript archive, which holds a program; save its state_dict() alone, or name "
                "OpenAI's weights as ARCHITECTURE/openai."
            ) from None
        raise UserError(f"{file}: damaged, or no checkpoint ({first_line(error)}); write it again.") from None


def _weights_of(content: Any, depth: int = 3) -> tuple[str, Mapping[str, Tensor]]:
    """Where in a file the weights stand (entries joined by dots), and the weights; nothing where there are none."""
    if not isinstance(content, Mapping):
        return "", {}
    for name in (*EMA, *PLAIN):
        if depth and isinstance(content.get(name), Mapping):
            inside, found = _weights_of(content[name], depth - 1)
            if found:
                return f"{name}.{inside}" if inside else name, found
    return "", {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _without_prefixes(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    while prefix := next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in weights)), ""):
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights


def load_into(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Puts the weights into a model of open_clip: all of them, and no others.

    Raises:
        UserError: a weight is missing, is not of the model, or has another shape; the first is named.
    """
    found = dict(convert_state_dict(model, dict(checkpoint.weights)))
    if "positional_embedding" in found and not hasattr(model, "positional_embedding"):
        found = convert_to_custom_text_state_dict(found)
    found.pop("text.transformer.embeddings.position_ids", None)  # of older transformers; no weight
    wanted = model.state_dict()
    for name in ("logit_scale", "logit_bias"):  # a number, or a list of one
        if name in found and name in wanted and found[name].numel() == 1:
            found[name] = found[name].reshape(wanted[name].shape)
    if wrong := _what_is_wrong(found, wanted):
        raise UserError(f"{checkpoint.file}: {wrong}; name the architecture that these weights are of by --model.")
    model.load_state_dict(found)


def _what_is_wrong(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    if missing := [name for name in wanted if name not in found]:
        return f"the weights lack {missing[0]} ({len(missing)} in all)"
    if strange := [name for name in found if name not in wanted]:
        return f"the model has no {strange[0]} ({len(strange)} in all)"
    for name, value in found.items():
        if value.shape != wanted[name].shape:
            return f"{name} has shape {list(value.shape)}, and {list(wanted[name].shape)} in the model"
    return ""
