"""What of a model lies on this machine, what is missing, and how the hub's client is kept off the network."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import constants, scan_cache_dir, try_to_load_from_cache
from huggingface_hub.errors import CacheNotFound

from grpo_tta.backbones.names import Source
from grpo_tta.errors import UserError

_OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_TRANSFORMERS_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_TOKENIZER = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "vocab.txt")
_PREPROCESSING = ("preprocessor_config.json", "processor_config.json")


_MISSING_KEY = re.compile(r'Missing key\(s\) in state_dict: "[^"]*"')
_WRONG_SIZE = re.compile(r"size mismatch for [^\n]*")
_FIRST_LINE = re.compile(r"[^\n]+")


@contextlib.contextmanager
def offline(enabled: bool) -> Iterator[None]:
    """Keeps the hub client off the network unless the user allowed a download, and its libraries from logging about it."""
    if not enabled:
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    quiet = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # the refused download is logged at length; the user gets one sentence instead
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        logging.disable(quiet)


def failure(name: str, error: Exception, *, download: bool, folder: bool) -> UserError:
    """One sentence for a model that is there, or was to be fetched, and cannot be loaded."""
    text = str(error).strip()
    first = (_MISSING_KEY.search(text) or _WRONG_SIZE.search(text) or _FIRST_LINE.search(text) or [""])[0]
    first = first.replace('Missing key(s) in state_dict: "', 'its weights lack "')  # the loaders list every tensor
    remedy = "write its files again"
    if not folder:
        remedy = "check the connection and try again" if download else "allow the download with --download or name a folder"
    return UserError(f"{name}: the model could not be loaded ({first.rstrip('.')}); {remedy}.")


def is_cached(repository: str, files: Sequence[str]) -> bool:
    """Whether one of these files of a hub repository lies in the hub's cache on this machine."""
    return any(isinstance(try_to_load_from_cache(repository, name), str) for name in files)


def cached_repositories() -> list[str]:
    """Ids of the model repositories in the hub's cache, sorted."""
    try:
        found = scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return []
    return sorted(repository.repo_id for repository in found.repos if repository.repo_type == "model")


def check_on_disk(source: Source) -> None:
    """
    Raises:
        UserError: something of the model would have to be downloaded, in one sentence that says what.
    """
    if missing := missing_parts(source):
        if source.library == "transformers" and source.repository and is_cached(source.repository, ("open_clip_config.json",)):
            raise UserError(f"{source.name} is a repository in open_clip's format; write hf-hub:{source.name}.")
        *most, last = missing
        named = f"{', '.join(most)} and {last}" if most else last
        one = not most and last != "weights"
        remedy = "allow the download with --download (download=True in Python) or name a folder"
        place = "on this machine"
        if source.folder:
            place, remedy = "in the folder", f"put {'it' if one else 'them'} there"
        raise UserError(f"The {named} of {source.name} {'is' if one else 'are'} not {place}; {remedy}.")


def missing_parts(source: Source) -> list[str]:
    """Names of the parts of a model that are not on this machine; empty where it can be loaded offline."""
    found = _missing_parts(source)
    return found if source.weights is None else [part for part in found if part != "weights"]


def _missing_parts(source: Source) -> list[str]:
    if source.library == "transformers":
        return _missing_of_transformers(source)
    if source.folder:
        config = _read(source.folder / "open_clip_config.json").get("model_cfg", {})
        missing = [] if any(p.suffix in (".safetensors", ".bin", ".pth") for p in source.folder.iterdir()) else ["weights"]
        # open_clip looks for the tokenizer of a folder in the folder, whatever name its configuration gives
        if config.get("text_cfg", {}).get("hf_tokenizer_name") and not _in_folder(source.folder, _TOKENIZER):
            missing.append("tokenizer")
        return missing + _missing_text_encoder(config)
    if source.repository:
        found = try_to_load_from_cache(source.repository, "open_clip_config.json")
        if not isinstance(found, str):
            return ["configuration", "weights"]
        config = _read(Path(found)).get("model_cfg", {})
        missing = [] if is_cached(source.repository, _OPEN_CLIP_WEIGHTS) else ["weights"]
    else:
        config = open_clip.get_model_config(source.architecture) or {}
        missing = [] if source.weights or _tag_is_cached(source) else ["weights"]
    tokenizer = config.get("text_cfg", {}).get("hf_tokenizer_name")
    if tokenizer and not is_cached(tokenizer, _TOKENIZER):
        missing.append("tokenizer")
    return missing + _missing_text_encoder(config)


def _tag_is_cached(source: Source) -> bool:
    place = open_clip.get_pretrained_cfg(source.architecture, source.tag).get("hf_hub", "")
    repository, _, file = place.rpartition("/")  # organisation/name/file, the file being empty for the usual one
    names = (file, str(Path(file).with_suffix(".safetensors"))) if file else _OPEN_CLIP_WEIGHTS
    return bool(repository) and is_cached(repository, names)


def _missing_text_encoder(config: Mapping[str, Any]) -> list[str]:
    """open_clip reads the configuration of a text encoder from transformers off the hub, even where it has the weights."""
    name = config.get("text_cfg", {}).get("hf_model_name")
    return ["configuration of the text encoder"] if name and not is_cached(name, ("config.json",)) else []


def _missing_of_transformers(source: Source) -> list[str]:
    parts = {
        "configuration": ("config.json",),
        "weights": _TRANSFORMERS_WEIGHTS,
        "tokenizer": _TOKENIZER,
        "preprocessing": _PREPROCESSING,
    }
    if source.folder:
        return [part for part, names in parts.items() if not _in_folder(source.folder, names)]
    return [part for part, names in parts.items() if not is_cached(source.repository, names)]


def _in_folder(folder: Path, names: tuple[str, ...]) -> bool:
    return any((folder / name).is_file() for name in names)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); write the folder again.") from None
    if not isinstance(content, dict) or "model_cfg" not in content:
        raise UserError(f"{path} is damaged (no model_cfg in it); write the folder again.")
    return content
