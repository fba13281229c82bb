"""Fixtures: a tiny random backbone of true architecture, the shipped nano-clip, and a folder of awkward images."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is loaded: test processes side by side must not fight for the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import settings
from PIL import Image

from grpo_tta.backbones.base import Backbone, load_backbone
from grpo_tta.backbones.open_clip import OpenClipBackbone
from grpo_tta.backbones.prompts import ClassPrompts
from grpo_tta.engine.policy import Policy

settings.register_profile("no clock", deadline=None)  # a busy machine takes longer than Hypothesis allows an example
settings.load_profile("no clock")

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPO_TTA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def tiny_model(seed: int = 0) -> open_clip.CLIP:
    torch.manual_seed(seed)
    model = open_clip.model.CLIP(**TINY)
    with torch.no_grad():  # features of a fresh model barely differ; make it opinionated
        model.logit_scale.fill_(2.3)
        for name, parameter in model.visual.named_parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) * (0.2 if "ln" in name else parameter.std().nan_to_num(0.1)))
    model.visual.preprocess_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return model


def tiny_backbone(seed: int = 0) -> OpenClipBackbone:
    preprocess = open_clip.image_transform(32, is_train=False, mean=(0.5,) * 3, std=(0.5,) * 3)
    return OpenClipBackbone("tiny", tiny_model(seed), preprocess, lambda texts: torch.zeros(len(texts), 16, dtype=torch.long))


@pytest.fixture
def backbone() -> OpenClipBackbone:
    return tiny_backbone()


@pytest.fixture
def policy(backbone: OpenClipBackbone) -> Policy:
    generator = torch.Generator().manual_seed(5)
    features = torch.nn.functional.normalize(torch.randn(10, 32, generator=generator), dim=-1)
    return Policy(backbone, ClassPrompts(tuple("abcdefghij"), ("{}",), ("{}",), features))


@pytest.fixture(scope="session")
def nano_backbone() -> Backbone:
    return load_backbone("nano-clip")


@pytest.fixture
def image() -> Image.Image:
    rng = np.random.default_rng(3)
    small = Image.fromarray(rng.integers(0, 256, (8, 6, 3), dtype=np.uint8))
    return small.resize((60, 80), Image.Resampling.BICUBIC)


@pytest.fixture
def awkward_folder(tmp_path: Path) -> Path:
    """Good: a JPEG, a PNG with alpha, a 16-bit grey PNG, a rotated photo. Bad: a truncated JPEG, a text named .jpg."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    photo.save(folder / "a.jpg")
    rgba = np.dstack([np.asarray(photo), np.full((48, 64), 0, np.uint8)])
    Image.fromarray(rgba).save(folder / "b.png")
    Image.fromarray(np.full((40, 40), 32768, np.uint16)).save(folder / "c.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(folder / "d.jpg", exif=exif)
    data = (folder / "a.jpg").read_bytes()
    (folder / "e.jpg").write_bytes(data[: len(data) // 2])
    (folder / "f.jpg").write_text("not an image")
    return folder
