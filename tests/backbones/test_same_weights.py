"""The same weights loaded by open_clip and by transformers are the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from grpo_tta import GRPOTTA, GRPOSettings, ViewSettings, load_backbone
from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.engine.optim import SGD
from grpo_tta.method.settings import Steps
from tests import families, weights
from tests.families import LABELS

pytestmark = pytest.mark.backbones
SETTINGS = GRPOSettings(views=ViewSettings(views=6, content_free=2), steps=Steps(2, SGD(1.0)))


def clip_pair(folder: Path) -> tuple[Path, Path]:
    ours, theirs = folder / "open_clip", folder / "transformers"
    ours.mkdir()
    config = families.open_clip_config("ViT-B-16-quickgelu", ours)
    state = families.write_open_clip(config, ours).state_dict()
    from transformers import CLIPModel

    model = CLIPModel(families.clip_config())
    model.load_state_dict(weights.clip(state))
    families.save_transformers_clip(model, theirs)
    return ours, theirs


def siglip_pair(folder: Path) -> tuple[Path, Path]:
    ours, theirs = folder / "open_clip", folder / "transformers"
    ours.mkdir()
    config = families.open_clip_config("ViT-B-16-SigLIP", ours)
    state = families.write_open_clip(config, ours).state_dict()
    from transformers import SiglipModel

    # open_clip's first SigLIPs use the exact GELU, transformers' configurations mostly its tanh form
    model = SiglipModel(families.siglip_config("gelu"))
    model.load_state_dict(weights.siglip(state))
    families.save_transformers_siglip(model, theirs)
    return ours, theirs


@pytest.fixture(scope="module", params=[clip_pair, siglip_pair], ids=["clip", "siglip"])
def backbones(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    ours, theirs = request.param(tmp_path_factory.mktemp("pair"))
    return load_backbone(str(ours)), load_backbone(str(theirs))


def photos() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    small = [Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)) for _ in range(6)]
    return [image.resize((90, 70), Image.Resampling.BICUBIC) for image in small]


def test_logits_are_the_same(backbones: tuple[Any, Any]) -> None:
    a, b = (logits(backbone) for backbone in backbones)
    assert a.std() > 0.01
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


@torch.no_grad()
def logits(backbone: Any) -> Tensor:
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = F.normalize(backbone.reference_forward(pixels), dim=-1)
    bias = 0.0 if backbone.logit_bias is None else backbone.logit_bias
    return backbone.logit_scale * features @ make_prompts(backbone, LABELS).features.T + bias


def test_preprocessing_is_the_same(backbones: tuple[Any, Any]) -> None:
    for image in photos():
        a, b = (backbone.preprocess(image) for backbone in backbones)
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_adapted_predictions_are_the_same(backbones: tuple[Any, Any]) -> None:
    a, b = (GRPOTTA(backbone, LABELS, settings=SETTINGS).predict(photos()) for backbone in backbones)
    assert [x.label for x in a] == [x.label for x in b]
    for x, y in zip(a, b, strict=True):
        assert x.probabilities == pytest.approx(y.probabilities, abs=1e-4)
    # and adaptation did something
    assert max(abs(x.probabilities[label] - x.probabilities_before[label]) for x in a for label in LABELS) > 1e-3


def test_scores_are_the_same(backbones: tuple[Any, Any]) -> None:
    a, b = (GRPOTTA(backbone, LABELS, settings=SETTINGS).score(photos()) for backbone in backbones)
    for x, y in zip(a, b, strict=True):
        assert x == pytest.approx(y, abs=1e-4)
