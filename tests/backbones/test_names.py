"""Names, the hub's cache, and what is said offline where something is missing."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from huggingface_hub import constants
from open_clip.transformer import QuickGELU
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from grpo_tta import GRPOTTA, GRPOSettings, UserError, ViewSettings, load_backbone
from grpo_tta.backbones.base import fingerprint
from grpo_tta.backbones.catalogue import KnownModel, family_of, known_models
from grpo_tta.backbones.names import SHIPPED, resolve
from grpo_tta.backbones.open_clip import pretrained_tags
from grpo_tta.cli.main import app
from tests import families
from tests.hub import cache_repository

TAGS = pretrained_tags()


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Whoever asks for the network fails at once, and is found out even where the failure is swallowed."""
    asked: list[Any] = []

    def refuse(*arguments: Any, **more: Any) -> None:
        asked.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield asked
    assert not asked


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.write("transformers-clip", tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.write("ViT-B-16-SigLIP", tmp_path_factory.mktemp("models") / "siglip")


def test_what_a_name_means(tmp_path: Path) -> None:
    for name, library, place in (
        ("ViT-B-16/openai", "open_clip", ("ViT-B-16", "openai")),
        ("EVA02-B-16/merged2b_s8b_b131k", "open_clip", ("EVA02-B-16", "merged2b_s8b_b131k")),
        ("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "open_clip", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
        ("openai/clip-vit-base-patch32", "transformers", "openai/clip-vit-base-patch32"),
        ("google/siglip2-base-patch16-224", "transformers", "google/siglip2-base-patch16-224"),
    ):
        found = resolve(name, TAGS)
        assert found.library == library
        assert place in ((found.architecture, found.tag), found.repository)
    (tmp_path / "config.json").write_text("{}")
    assert resolve(str(tmp_path), TAGS).library == "transformers"
    (tmp_path / "open_clip_config.json").write_text("{}")
    assert resolve(str(tmp_path), TAGS).library == "open_clip"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("VIT-B-16/openai", r"Unknown model 'VIT-B-16/openai'; did you mean ViT-B-16/openai\?"),
        ("ViT-B16/openai", r"did you mean .*ViT-B-16/openai"),
        ("nanoclip", r"did you mean nano-clip\?"),
        ("ViT-B-16/opnai", r"no pretrained weights 'opnai'; did you mean openai\?"),
        ("ViT-B-16", r"ViT-B-16 needs the name of its weights; choose one of openai, .* for example ViT-B-16/openai"),
        ("swin_base_patch4_window7_224", "knows no pretrained weights for swin_base"),
        ("something", r"Unknown model 'something'; use nano-clip, .* All names are listed by: grpo-tta models"),
        ("hf-hub:nothing", "write hf-hub:ORGANISATION/NAME"),
        ("./nowhere", "no such model folder"),
        ("weights.pt", "no such model folder"),
    ],
)
def test_unknown_names_are_refused_with_near_matches(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_backbone(name)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("ViT-B-16/openai", "The weights of ViT-B-16/openai are"),
        ("ViT-B-16-SigLIP/webli", "The weights and tokenizer of ViT-B-16-SigLIP/webli are"),
        ("roberta-ViT-B-32/laion2b_s12b_b32k", "The weights, tokenizer and configuration of the text encoder of roberta"),
        ("hf-hub:laion/some-clip", "The configuration and weights of hf-hub:laion/some-clip are"),
        ("openai/clip-vit-base-patch32", "The configuration, weights, tokenizer and preprocessing of openai/clip-vit"),
    ],
)
def test_what_would_have_to_be_downloaded_is_said_in_one_sentence(name: str, missing: str) -> None:
    with pytest.raises(UserError) as refusal:
        load_backbone(name)
    text = str(refusal.value)
    assert text.startswith(missing)
    assert text.endswith(
        "are not on this machine; allow the download with --download (download=True in Python) or name a folder."
    )
    assert re.findall(r"\.(?:\s|$)", text) == ["."]


def test_weights_without_their_tokenizer_say_so(cache: Path, clip_folder: Path, tmp_path: Path) -> None:
    partly = Path(shutil.copytree(clip_folder, tmp_path / "partly"))
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (partly / name).unlink()
    with pytest.raises(UserError, match=r"The tokenizer of .*partly is not in the folder; put it there\.$"):
        load_backbone(str(partly))
    cache_repository(cache, "someone/clip", partly)
    with pytest.raises(UserError, match=r"The tokenizer of someone/clip is not on this machine; allow the download"):
        load_backbone("someone/clip")


def test_repositories_of_the_cache_load_offline(cache: Path, clip_folder: Path, siglip_folder: Path) -> None:
    cache_repository(cache, "someone/clip", clip_folder)
    theirs = load_backbone("someone/clip")
    assert theirs.fingerprint == load_backbone(str(clip_folder)).fingerprint
    hidden = cache_repository(cache, "someone/siglip", siglip_folder)
    config = json.loads((hidden / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "someone/siglip"  # where open_clip looks for that of a repository
    (hidden / "open_clip_config.json").write_text(json.dumps(config))
    assert load_backbone("hf-hub:someone/siglip").logit_bias == -2.0
    with pytest.raises(UserError, match="in open_clip's format; write hf-hub:someone/siglip"):
        load_backbone("someone/siglip")
    config["model_cfg"]["vision_cfg"]["timm_model_name"] = "vit_base_patch16_siglip_224"  # as it is published
    (hidden / "open_clip_config.json").write_text(json.dumps(config))
    known = {entry.name: entry for entry in known_models() if entry.cached}
    assert set(known) == {*SHIPPED, "someone/clip", "hf-hub:someone/siglip"}


def test_damaged_folders_name_the_remedy(clip_folder: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(clip_folder, tmp_path / name))

    short = copy("short")
    weights = load_file(short / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, short / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"its weights lack visual_projection\.weight \(1 in all\)"):
        load_backbone(str(short))
    other = copy("other")
    (other / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(UserError, match="of type 'vit' of transformers; CLIP, SigLIP, SigLIP 2 and dual encoders can be"):
        load_backbone(str(other))
    torn = copy("torn")
    (torn / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="could not be loaded"):
        load_backbone(str(torn))
    strange = copy("strange")
    (strange / "vocab.json").write_text(json.dumps({"a": 0}))
    (strange / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(UserError, match="its tokenizer cannot distinguish words"):
        load_backbone(str(strange))
    large = copy("large")
    preprocessing = json.loads((large / "preprocessor_config.json").read_text())
    preprocessing["crop_size"] = {"height": 40, "width": 40}
    preprocessing["size"] = {"shortest_edge": 40}
    (large / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    with pytest.raises(UserError, match="makes images of 40 x 40 pixels, but it reads 32 x 32"):
        load_backbone(str(large))


@pytest.mark.parametrize("name", ["transformers-clip", "transformers-siglip", "ViT-B-16-SigLIP"])
def test_prompts_that_would_be_cut_off_are_refused(name: str, tmp_path: Path) -> None:
    backbone = load_backbone(str(families.write(name, tmp_path / "model")))
    with pytest.raises(UserError, match="shorten the label or template"):
        backbone.encode_text(["a photo of a cat", "fish " * 80])


@pytest.mark.parametrize("name", ["transformers-clip", "transformers-siglip"])
def test_text_can_be_encoded_from_embeddings(name: str, tmp_path: Path) -> None:
    backbone: Any = load_backbone(str(families.write(name, tmp_path / "model")))
    prompts = ["a photo of a cat", "a red fish"]
    embeddings, tokens = backbone.embed_tokens(prompts)
    again = backbone.encode_embeddings(embeddings.requires_grad_(), tokens)
    torch.testing.assert_close(again, backbone.encode_text(prompts), atol=1e-5, rtol=1e-5)
    again.sum().backward()
    assert embeddings.grad is not None
    assert embeddings.grad.abs().amax((1, 2)).gt(0).all()


def test_siglip2_prepares_a_square_image_as_its_own_processor_does(tmp_path: Path, image: Image.Image) -> None:
    from transformers import AutoImageProcessor

    folder = families.write("transformers-siglip2", tmp_path / "model")
    backbone: Any = load_backbone(str(folder))
    square = image.resize((60, 60))
    own = AutoImageProcessor.from_pretrained(folder, backend="pil")(images=square, return_tensors="pt")
    assert own["spatial_shapes"].tolist() == [[3, 3]]
    patches, grid = backbone._patches(backbone.preprocess(square)[None])
    torch.testing.assert_close(patches, own["pixel_values"], atol=1e-5, rtol=0)
    assert grid.tolist() == [[3, 3]]


@pytest.mark.backbones
def test_openai_weights_get_quick_gelu_at_true_size(cache: Path, tmp_path: Path, image: Image.Image) -> None:
    """ViT-B-32 as it is, with random weights where the hub's client would have put OpenAI's."""
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32", load_weights=False)
    (tmp_path / "empty").mkdir()
    stored = cache_repository(cache, "timm/vit_base_patch32_clip_224.openai", tmp_path / "empty")
    save_file({key: value.half() for key, value in model.state_dict().items()}, stored / "open_clip_model.safetensors")
    del model
    known = {entry.name for entry in known_models() if entry.cached}
    assert known == {*SHIPPED, "ViT-B-32-quickgelu/openai", "ViT-B-32/openai"}
    backbone: Any = load_backbone("ViT-B-32/openai")
    shutil.rmtree(stored)
    assert isinstance(backbone.blocks[0].mlp.gelu, QuickGELU)
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        tokens = backbone.stem(pixels)
        for block in backbone.blocks:
            tokens = block(tokens)
        torch.testing.assert_close(backbone.head(tokens), backbone.reference_forward(pixels), atol=1e-5, rtol=1e-5)
    before = backbone.fingerprint
    settings = GRPOSettings(views=ViewSettings(views=3, content_free=1))
    explanation = GRPOTTA(backbone, ["cat", "dog"], settings=settings).explain(image)
    assert explanation.steps[0].gradient_norm > 0
    assert sum(explanation.prediction.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert fingerprint(backbone._model) == before


def test_the_list_of_known_models() -> None:
    known = known_models()
    by_name: dict[str, KnownModel] = {entry.name: entry for entry in known}
    assert len(by_name) == len(known) > 200
    assert by_name["nano-clip"].cached
    assert by_name["RN50/openai"].tunes == ("norm",)
    assert by_name["RN50/openai"].norms == "BatchNorm"
    assert by_name["MobileCLIP-S2/datacompdr"].family == "mobileclip"
    assert by_name["EVA02-L-14/merged2b_s4b_b131k"].family == "eva-02"
    assert by_name["ViT-L-14/openai"].tunes == ("norm", "low-rank")
    assert by_name["openai/clip-vit-base-patch16"].library == "transformers"
    # every architecture with weights belongs to a family: whatever open_clip offers can be adapted
    for architecture, tags in TAGS.items():
        if tags:
            assert family_of(open_clip.get_model_config(architecture)["vision_cfg"]) is not None, architecture


def test_the_commands_know_the_cache(cache: Path, tmp_path: Path, clip_folder: Path) -> None:
    cache_repository(cache, "someone/clip", clip_folder)

    def command(*arguments: str) -> str:
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    printed = json.loads(command("models", "--cached", "--json"))
    assert [entry["name"] for entry in printed] == [*SHIPPED, "someone/clip"]
    assert printed[-1] == {
        "name": "someone/clip",
        "library": "transformers",
        "family": "clip",
        "tunes": ["norm", "low-rank"],
        "norms": "LayerNorm",
        "cached": True,
        "missing": [],
    }
    table = command("models")
    assert "ViT-B-16/openai" in table
    assert "no weights" in table
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    printed = json.loads(
        command("predict", str(tmp_path / "red.png"), "--labels", "cat,dog", "--model", "someone/clip", "--json")
    )
    assert printed["model"] == "someone/clip"
    assert len(printed["predictions"]) == 1
