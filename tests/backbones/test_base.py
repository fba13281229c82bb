"""Stem, blocks and head against the libraries' own forward, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from grpo_tta.backbones.base import fingerprint, load_backbone
from grpo_tta.backbones.open_clip import OpenClipBackbone
from grpo_tta.backbones.prompts import ClassPrompts
from grpo_tta.engine.encode import encode_views
from grpo_tta.engine.parameters import NormAffine
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError
from tests.conftest import TINY, tiny_model

VARIANTS = {
    "plain": {},
    "quick-gelu": {"quick_gelu": True},
    "average-pool": {"vision_cfg": {"pool_type": "avg"}},
    "pre-norm-off": {"vision_cfg": {"no_ln_pre": True}},
    "layer-scale": {"vision_cfg": {"ls_init_value": 0.1}},
    "attention-pool": {"vision_cfg": {"attentional_pool": True, "attn_pooler_heads": 2}},
}


def run_split(backbone: OpenClipBackbone, pixels: torch.Tensor) -> torch.Tensor:
    x = backbone.stem(pixels)
    for block in backbone.blocks:
        x = block(x)
    return backbone.head(x)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_split_equals_the_full_forward(name: str) -> None:
    changes = VARIANTS[name]
    config = {**TINY, **changes, "vision_cfg": {**TINY["vision_cfg"], **changes.get("vision_cfg", {})}}
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**config)
    model.visual.preprocess_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    backbone = OpenClipBackbone(name, model, lambda image: image, lambda texts: torch.zeros(len(texts), 16, dtype=torch.long))
    pixels = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(run_split(backbone, pixels), backbone.reference_forward(pixels), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("pool", "projection"), [("", "linear"), ("map", "none")], ids=["token", "siglip"])
def test_the_split_of_a_timm_backbone_equals_the_full_forward(pool: str, projection: str) -> None:
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": pool, "timm_proj": projection, "image_size": 224}
    torch.manual_seed(0)
    model = open_clip.model.CustomTextCLIP(192, vision, TINY["text_cfg"])
    model.visual.preprocess_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    backbone = OpenClipBackbone("timm", model, lambda image: image, lambda texts: torch.zeros(len(texts), 16, dtype=torch.long))
    pixels = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(run_split(backbone, pixels), backbone.reference_forward(pixels), atol=1e-5, rtol=1e-5)


def test_nano_clip_loads_and_equals_open_clip(nano_backbone: OpenClipBackbone) -> None:
    pixels = torch.randn(4, 3, nano_backbone.image_size, nano_backbone.image_size)
    with torch.no_grad():
        torch.testing.assert_close(
            run_split(nano_backbone, pixels), nano_backbone.reference_forward(pixels), atol=1e-5, rtol=1e-5
        )
    assert nano_backbone.encode_text(["a photo of a star."]).shape == (1, 128)


def test_a_prompt_that_would_be_cut_off_is_refused(nano_backbone: OpenClipBackbone) -> None:
    with pytest.raises(UserError, match="shorten the label or template"):
        nano_backbone.encode_text(["star " * 40])


def test_a_users_own_folder_loads_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "mine")
    monkeypatch.chdir("/")
    assert load_backbone(str(folder)).image_size == 32


def write_folder(folder: Path) -> Path:
    folder.mkdir()
    model = tiny_model()
    config = {"model_cfg": TINY, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder


def test_unusable_models_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Unknown model 'vit'.*nano-clip"):
        load_backbone("vit")
    with pytest.raises(UserError, match="no pretrained weights 'nobody'; choose one of"):
        load_backbone("ViT-B-32/nobody")
    with pytest.raises(UserError, match="not on this machine; allow the download"):
        load_backbone("ViT-B-32/laion2b_s34b_b79k")
    with pytest.raises(UserError, match="no such model folder"):
        load_backbone("./nowhere")
    with pytest.raises(UserError, match=r"open_clip_config\.json is missing"):
        load_backbone(str(tmp_path))
    folder = write_folder(tmp_path / "mine")
    (folder / "open_clip_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="could not be loaded"):
        load_backbone(str(folder))
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"The weights of .* are not in the folder; put them there"):
        load_backbone(str(folder))
    (folder / "open_clip_config.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        load_backbone(str(folder))
    with pytest.raises(UserError, match="Unknown device"):
        load_backbone("nano-clip", device="moon")
    assert os.environ.get("HF_HUB_OFFLINE") is None


def test_an_encoder_of_unknown_kind_is_refused() -> None:
    vision = {"timm_model_name": "resnet10t", "timm_pool": "", "timm_proj": "linear", "image_size": 32}
    model = open_clip.model.CustomTextCLIP(32, vision, TINY["text_cfg"])
    with pytest.raises(UserError, match="the visual encoder ResNet cannot be split into blocks; `grpo-tta models` lists"):
        OpenClipBackbone("rn", model, lambda image: image, lambda texts: torch.zeros(1, 1))


def test_an_attentional_poolers_queries_are_not_tuned() -> None:
    """They are the same for all images: CoCa's norm over them has no axis of images to be one's own along."""
    vision = {**TINY["vision_cfg"], **VARIANTS["attention-pool"]["vision_cfg"]}
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**{**TINY, "vision_cfg": vision})
    model.visual.preprocess_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    backbone = OpenClipBackbone("coca", model, lambda image: image, lambda texts: torch.zeros(len(texts), 16, dtype=torch.long))
    tunable = NormAffine(1)(backbone)
    assert {name.rsplit(".", 1)[0] for name in tunable.shapes if name.startswith("head.")} == {
        "head.ln_post",
        "head.attn_pool.ln_k",
    }
    policy = Policy(backbone, ClassPrompts(tuple("abc"), ("{}",), ("{}",), torch.eye(3, 32)))
    views = torch.randn(3, 4, 3, 32, 32)
    tokens = encode_views(policy, views, views[:, :0], [tunable.first_block]).tokens[tunable.first_block]
    own = {name: value + 0.1 * torch.randn_like(value) for name, value in tunable.start(3).items()}
    with torch.no_grad():
        together = policy.adapted(tokens, tunable, own)
        for b in range(3):
            alone = policy.adapted(tokens[b : b + 1], tunable, {name: value[b : b + 1] for name, value in own.items()})
            torch.testing.assert_close(together[b : b + 1], alone, atol=1e-4, rtol=0)


def test_the_same_weights_with_another_activation_are_another_model() -> None:
    """Text features are kept on disk by the fingerprint. ViT-B-16 and ViT-B-16-quickgelu can hold the same weights."""
    layer = nn.Linear(3, 3)
    one, other, again = (nn.Sequential(layer, activation()) for activation in (nn.GELU, nn.SiLU, nn.GELU))
    assert fingerprint(one) == fingerprint(again) != fingerprint(other)
