"""The recipe of photo-clip: real steps on few images, in pieces or in one go, and a folder that loads like any model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from grpo_tta import GRPOTTA
from grpo_tta.data import photos
from tests.photo_files import write_photos
from tests.scripts import load_script

SMALL = ["--steps", "4", "--batch", "8", "4", "--width", "32", "--layers", "1"]


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(photos, "HELD_OUT", {"tiny": 2, "cifar": 2})
    return load_script("recipes/photo_clip/train.py", monkeypatch)


def weights(folder: Path) -> bytes:
    return (folder / "open_clip_model.safetensors").read_bytes()


def test_in_pieces_as_in_one_go_and_loads_by_its_folder(recipe: ModuleType, tmp_path: Path) -> None:
    write_photos(tmp_path / "data", 6)
    root = ["--photos-root", str(tmp_path / "data")]
    recipe.main([*root, "--out", str(tmp_path / "whole"), *SMALL])
    for _ in range(4):
        recipe.main([*root, "--out", str(tmp_path / "pieces"), *SMALL, "--piece-minutes", "0"])
    assert weights(tmp_path / "whole") == weights(tmp_path / "pieces")

    config = json.loads((tmp_path / "whole" / "open_clip_config.json").read_text())
    assert "patch_dropout" not in config["model_cfg"]["vision_cfg"]
    answer = GRPOTTA(str(tmp_path / "whole"), ["tabby", "acorn"]).predict(Image.new("RGB", (64, 64), "red"))
    assert answer.label in ("tabby", "acorn")


def test_trains_on_nothing_that_is_held_out(recipe: ModuleType, tmp_path: Path) -> None:
    write_photos(tmp_path, 6)
    read = recipe.images.read(tmp_path, "tiny")
    assert (len(read.images), len(read.watched)) == (16, 8)
    held = photos.photo_tasks(tmp_path, ["tiny"], "tuning")[0]
    assert sorted(held.image_ids) == [f"photos/tiny/tuning/train/{i:05d}" for i in range(16, 24)]
    with pytest.raises(SystemExit, match="--photos-root"):
        recipe.images.read(tmp_path / "nowhere", "tiny")


def test_loss_by_hand(recipe: ModuleType) -> None:
    """Two images of the first class, one like its caption and one like the other's: two captions at right angles, scale 1."""
    eye = torch.eye(2)
    near, far = -torch.tensor([1.0, 0.0]).log_softmax(0)
    per_image = (near + far) / 2  # each image against both captions
    per_text = (near + far) / 2  # the first caption against both images, its target half on each; the second has none
    found = recipe.loss_of(eye, eye, torch.tensor([0, 0]), torch.tensor(1.0))
    assert found.item() == pytest.approx(((per_image + per_text) / 2).item())


def test_the_learning_rate_rises_and_falls_to_zero(recipe: ModuleType) -> None:
    assert [recipe.rise_and_fall(done) for done in (0.0, 0.01, 0.02, 0.51, 1.0)] == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0])


def test_every_parameter_is_moved_by_one_optimizer(recipe: ModuleType) -> None:
    model = recipe.open_clip.model.CLIP(**recipe.configuration(600, 32, 1)["model_cfg"])
    moved = [id(p) for o in recipe.optimizers_of(model, 1e-3) for group in o.param_groups for p in group["params"]]
    assert sorted(moved) == sorted(id(p) for p in model.parameters())


def test_captions_are_drawn_from_their_own_class(recipe: ModuleType) -> None:
    counts = torch.tensor([1, 3])
    drawn = torch.stack([recipe.texts.draw(counts, torch.Generator().manual_seed(i)) for i in range(300)])
    size = len(recipe.texts.TEMPLATES)
    assert int(drawn[:, 0].max()) < size
    assert {int(n) // size for n in drawn[:, 1]} == {0, 1, 2}
    assert recipe.texts.captions(("tabby", "cat"))[size] == "a photo of a cat."
