"""`weights=FILE`: what trainers write around weights is taken off, and wrong weights are named. Never random ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from grpo_tta import GRPOTTA, UserError, load_backbone
from grpo_tta.backbones.checkpoint import read_checkpoint
from tests.backbones.test_base import write_folder
from tests.conftest import tiny_model

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """Other weights than those of the folder."""
    return {key: value.detach().clone() for key, value in tiny_model(seed=7).state_dict().items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model")


def prefixed(state: Mapping[str, torch.Tensor], prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def zeros(state: Mapping[str, torch.Tensor]) -> State:
    return {key: torch.zeros_like(value) for key, value in state.items()}


FORMS: dict[str, Callable[[State], Any]] = {
    "weights alone": lambda s: s,
    "of open_clip's trainer": lambda s: {"epoch": 3, "name": "x", "state_dict": prefixed(s, "module."), "optimizer": {}},
    "of a trainer": lambda s: {"model": s, "epoch": 3, "args": {"lr": 1e-3}},
    "compiled, in parallel": lambda s: {"state_dict": prefixed(s, "_orig_mod.module.")},
    "in an attribute": lambda s: {"state_dict": prefixed(s, "model.")},
    "averaged, as timm writes": lambda s: {"state_dict": zeros(s), "state_dict_ema": s},
    "averaged, model_ema": lambda s: {"model": zeros(s), "model_ema": {"state_dict": prefixed(s, "module.")}},
    "averaged, ema": lambda s: {"ema": {"module": s, "decay": 0.999}, "model": zeros(s)},
    "in half precision": lambda s: {"state_dict": {k: v.half() for k, v in s.items()}},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_weights(form: str, state: State, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = folder.parent / "mine.pt"
    torch.save(FORMS[form](state), file)
    with caplog.at_level(logging.WARNING):
        backbone: Any = load_backbone(str(folder), weights=file)
    assert ("averaged" in caplog.text) == ("averaged" in form)  # which are taken is said
    found = backbone._model.state_dict()
    tolerance = 1e-2 if "half" in form else 0.0
    for key, value in state.items():
        assert torch.allclose(found[key], value, atol=tolerance, rtol=tolerance), key
    assert backbone.name == f"{folder} (mine.pt)"
    assert found["visual.proj"].dtype == torch.float32


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_every_suffix(suffix: str, state: State, folder: Path) -> None:
    file = folder.parent / f"mine{suffix}"
    contiguous = {key: value.contiguous() for key, value in state.items()}
    if suffix == ".safetensors":
        save_file(contiguous, file)
    else:
        torch.save(contiguous, file)
    assert read_checkpoint(file).weights.keys() == state.keys()
    load_backbone(str(folder), weights=file)


def test_another_file_is_another_model(state: State, folder: Path) -> None:
    """The fingerprint enters every run's description. It changes with the file, even where the weights do not."""
    one, two = folder.parent / "one.pt", folder.parent / "two.pt"
    torch.save(state, one)
    torch.save({"state_dict": state, "epoch": 2}, two)
    of_file = [load_backbone(str(folder), weights=file).fingerprint for file in (one, two, one)]
    assert of_file[0] == of_file[2]
    assert len({*of_file, load_backbone(str(folder)).fingerprint}) == 3


def without(state: State, name: str) -> State:
    return {key: value for key, value in state.items() if key != name}


WRONG: dict[str, tuple[Callable[[State], Any], str]] = {
    "a weight is missing": (lambda s: without(s, "visual.proj"), r"lack visual\.proj \(1 in all\).*--model"),
    "a weight is of no part": (lambda s: s | {"head.weight": torch.ones(1)}, r"the model has no head\.weight"),
    "another shape": (lambda s: s | {"visual.proj": torch.ones(2, 2)}, r"visual\.proj has shape \[2, 2\], and \[64, 32\]"),
    "no weights": (lambda s: {"epoch": 3, "args": {}}, r"no weights were found in it \(it holds args, epoch\)"),
    "a list": (lambda s: [1, 2], "no weights were found"),
    "a program": (lambda s: {"state_dict": s, "args": Path("x")}, r"more than weights.*torch\.save\(model\.state_dict\(\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_weights_are_one_sentence(case: str, state: State, folder: Path) -> None:
    make, message = WRONG[case]
    file = folder.parent / "mine.pt"
    torch.save(make(state), file)
    with pytest.raises(UserError, match=message):
        load_backbone(str(folder), weights=file)


@pytest.mark.filterwarnings("ignore:.torch.jit")  # its category differs between versions of torch
def test_files_that_are_no_checkpoint(folder: Path) -> None:
    for name in ("mine.pt", "mine.safetensors"):
        file = folder.parent / name
        with pytest.raises(UserError, match=r"cannot be read .*check the path"):
            load_backbone(str(folder), weights=file)
        file.write_bytes(b"nothing of the kind")
        with pytest.raises(UserError, match="damaged"):
            load_backbone(str(folder), weights=file)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), archive := folder.parent / "script.pt")  # as OpenAI's files are
    with pytest.raises(UserError, match="TorchScript"):
        load_backbone(str(folder), weights=archive)


def test_models_that_take_no_weights(tmp_path: Path, nano_backbone: Any) -> None:
    for model in ("hf-hub:someone/clip", "someone/clip"):
        with pytest.raises(UserError, match=r"takes no --weights; name an architecture"):
            load_backbone(model, weights=tmp_path / "x.pt")
    with pytest.raises(UserError, match="a backbone has its own"):
        GRPOTTA(nano_backbone, ["a", "b"], weights=tmp_path / "x.pt")
    with pytest.raises(UserError, match="has no pretrained weights 'nobody'"):
        load_backbone("ViT-B-16/nobody", weights=tmp_path / "x.pt")


def test_an_architecture_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As published: activation and preprocessing are those of the tag; without one they are what all its tags share."""
    vision = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}
    original = open_clip.factory.get_model_config
    monkeypatch.setattr(
        open_clip.factory, "get_model_config", lambda name: {**config} if "ViT-B-16" in name else original(name)
    )
    torch.save({"state_dict": prefixed(open_clip.model.CLIP(**config).state_dict(), "module.")}, file := tmp_path / "my.pt")
    with caplog.at_level(logging.WARNING):
        plain: Any = load_backbone("ViT-B-16", weights=file)
    assert "published weights of ViT-B-16 differ" in caplog.text
    assert "random" not in caplog.text
    caplog.clear()
    tagged: Any = load_backbone("ViT-B-16/openai", weights=file)
    assert not caplog.text
    names = [type(backbone._model.visual.transformer.resblocks[0].mlp.gelu).__name__ for backbone in (plain, tagged)]
    assert names == ["GELU", "QuickGELU"]
    assert plain.name == "ViT-B-16 (my.pt)"
    assert tagged.mean.tolist() == pytest.approx([0.48145466, 0.4578275, 0.40821073])
    datacomp: Any = load_backbone("ViT-B-16/datacomp_xl_s13b_b90k", weights=file)
    assert type(datacomp._model.visual.transformer.resblocks[0].mlp.gelu).__name__ == "GELU"
