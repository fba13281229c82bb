"""Image classifiers from files: timm's and torchvision's networks with the user's weights, and folders in timm's format."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import timm
import torch
import torchvision
from safetensors.torch import load_file
from timm.data import resolve_data_config
from torch import Tensor, nn
from torchvision.transforms import v2

from grpo_tta.backbones.classifier_names import ClassifierSource
from grpo_tta.backbones.classifiers import IMAGENET_MEAN, IMAGENET_STD, ClassifierBackbone, preprocessing
from grpo_tta.backbones.hub import failure, is_cached, offline
from grpo_tta.errors import UserError

Names = Mapping[str, str] | Sequence[str]
WEIGHTS_OF_A_FOLDER = ("model.safetensors", "pytorch_model.bin")
_INSIDE = ("state_dict", "model", "model_state_dict", "model_ema", "state_dict_ema")
_WRAPPED = ("module.", "_orig_mod.")
_INTERPOLATION = {
    "bicubic": v2.InterpolationMode.BICUBIC,
    "bilinear": v2.InterpolationMode.BILINEAR,
    "nearest": v2.InterpolationMode.NEAREST,
}


def load(
    source: ClassifierSource,
    weights: str | Path | None,
    class_names: Names | None,
    *,
    device: torch.device,
    download: bool,
    dtype: torch.dtype = torch.float32,
) -> ClassifierBackbone:
    """A classifier with its weights. See `backbones.base.load_backbone`.

    Raises:
        UserError: unknown name, no weights, weights that do not fit or are damaged, or classes without names.
    """
    path = None if weights is None else Path(weights).expanduser()
    if source.library == "torchvision":
        model, config = _of_torchvision(source, path, download)
    elif source.folder is not None:
        model, config, named = _of_folder(source, source.folder, path)
        class_names = named if class_names is None else class_names
    else:
        model, config = _of_timm(source, path, download)
    size = source.size or int(config["input_size"][-1])
    if size != int(config["input_size"][-1]) and hasattr(model, "set_input_size"):
        cast(Any, model).set_input_size(img_size=(size, size))  # positions are resampled; a convolutional network needs nothing
    mean, std = tuple(config["mean"]), tuple(config["std"])
    interpolation = _INTERPOLATION.get(config["interpolation"], v2.InterpolationMode.BICUBIC)
    shown = 1.0 if source.size else float(config["crop_pct"])
    model = model.to(device, dtype)
    if device.type == "cpu":  # convolutions are up to 1.8 times faster with the channels of a pixel side by side
        model = cast(Any, model).to(memory_format=torch.channels_last)
    return ClassifierBackbone(
        source.name,
        model,
        class_names=class_names,
        image_size=size,
        mean=mean,
        std=std,
        preprocess=preprocessing(size, mean, std, shown=shown, interpolation=interpolation),
    )


def _of_timm(source: ClassifierSource, weights: Path | None, download: bool) -> tuple[nn.Module, dict[str, Any]]:
    name = source.architecture
    if name not in {*timm.list_models(), *timm.list_models(pretrained=True)}:
        near = timm.list_models(f"*{name.split('.')[0]}*")[:3]
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() lists its names."
        raise UserError(f"timm knows no model {name!r}; {hint}")
    if weights is not None:
        state = read_weights(weights)
        model = _created(source, pretrained=False, num_classes=_classes_in(state, source, name))
        _fill(model, state, weights, source)
    else:
        hub = str((timm.get_pretrained_cfg(name, allow_unregistered=True) or timm.models.PretrainedCfg()).hf_hub_id or "")
        if not download and not (hub and is_cached(hub, WEIGHTS_OF_A_FOLDER)):
            raise _no_weights(source)
        with offline(not download):
            model = _created(source, pretrained=True)
    return model, resolve_data_config(model=model)


def _created(source: ClassifierSource, *, pretrained: bool, **arguments: Any) -> nn.Module:
    try:
        return timm.create_model(source.architecture, pretrained=pretrained, **arguments)
    except Exception as error:  # whatever a constructor or the hub's client raises
        raise failure(source.name, error, download=pretrained, folder=False) from error


def _of_folder(source: ClassifierSource, folder: Path, weights: Path | None) -> tuple[nn.Module, dict[str, Any], Names | None]:
    config = json.loads((folder / "config.json").read_text())
    found = weights or next((folder / name for name in WEIGHTS_OF_A_FOLDER if (folder / name).is_file()), None)
    if found is None:
        raise UserError(f"{folder}: the weights are missing; put model.safetensors there or give --weights FILE.")
    said = dict(config.get("pretrained_cfg") or {})
    arguments = dict(config.get("model_args") or {})
    try:
        count = int(config.get("num_classes") or said["num_classes"])
        model = timm.create_model(config["architecture"], pretrained=False, num_classes=count, **arguments)
        _fill(model, read_weights(found), found, source)
        return model, resolve_data_config(said, model=model), _named(config, said)
    except UserError:
        raise
    except Exception as error:
        raise failure(source.name, error, download=False, folder=True) from error


def _named(config: Mapping[str, Any], said: Mapping[str, Any]) -> Names | None:
    """The classes by timm's `label_names` and, where they are ids, its `label_descriptions`."""
    names = config.get("label_names") or said.get("label_names")
    if not names:
        return None
    described = config.get("label_descriptions") or said.get("label_descriptions")
    return {name: described[name] for name in names} if isinstance(described, Mapping) else list(names)


def _of_torchvision(source: ClassifierSource, weights: Path | None, download: bool) -> tuple[nn.Module, dict[str, Any]]:
    name = source.architecture
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise UserError(f"torchvision knows no classifier {name!r}; torchvision.models.list_models() lists its names.")
    config: dict[str, Any] = {"input_size": (3, 224, 224), "mean": IMAGENET_MEAN, "std": IMAGENET_STD,
                              "interpolation": "bilinear", "crop_pct": 0.875}  # fmt: skip
    published = torchvision.models.get_model_weights(name).DEFAULT
    if weights is None:
        if not (download or (Path(torch.hub.get_dir()) / "checkpoints" / published.url.rpartition("/")[2]).is_file()):
            raise _no_weights(source)
        model = torchvision.models.get_model(name, weights=published)
        shown = published.transforms()
        crop, resize = shown.crop_size[0], shown.resize_size[0]
        config |= {"input_size": (3, crop, crop), "mean": shown.mean, "std": shown.std, "crop_pct": crop / resize,
                   "interpolation": shown.interpolation.value}  # fmt: skip
        return model, config
    state = read_weights(weights)
    model = torchvision.models.get_model(name, weights=None, num_classes=_classes_in(state, source, ""))
    _fill(model, state, weights, source)
    return model, config


def _no_weights(source: ClassifierSource) -> UserError:
    return UserError(
        f"The weights of {source.name} are not on this machine; give --weights FILE, or allow the download with --download "
        "(weights=… and download=True in Python)."
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name: .safetensors, or what torch saved and `weights_only=True` reads.

    Raises:
        UserError: the file is missing, damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights; give a .safetensors, .pt or .pth.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path}: holds more than tensors, which could run code; save its state_dict alone.") from None
    except Exception as error:  # safetensors and torch have errors of their own
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not a readable file of weights ({first}); write it again.") from None
    while isinstance(content, dict) and (inner := next((content[key] for key in _INSIDE if key in content), None)):
        content = inner
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path}: holds no names with tensors; save the model's state_dict.")
    for beginning in _WRAPPED:
        if content and all(name.startswith(beginning) for name in content):
            content = {name.removeprefix(beginning): value for name, value in content.items()}
    return content


def _classes_in(state: Mapping[str, Tensor], source: ClassifierSource, timm_name: str) -> int:
    """How many classes the weights have: rows of timm's layer of the classes, or of the last matrix."""
    config = timm.get_pretrained_cfg(timm_name, allow_unregistered=True) if timm_name else None
    layer = getattr(config, "classifier", None)
    named = state.get(f"{layer}.weight") if isinstance(layer, str) else None
    matrices = [value for name, value in state.items() if value.ndim == 2 and name.endswith("weight")]
    found = named if named is not None else matrices[-1] if matrices else None
    if found is None:
        raise UserError(f"{source.name}: the weights hold no layer of classes; bring those of the whole classifier.")
    return len(found)


def _fill(model: nn.Module, state: Mapping[str, Tensor], path: Path, source: ClassifierSource) -> None:
    try:
        model.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        text = failure(source.name, error, download=False, folder=True)
        raise UserError(f"{path}: not the weights of {source.name}. {text}") from None
