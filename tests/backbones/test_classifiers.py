"""Image classifiers: the network's own logits, labels by id or name, weights from files, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

from grpo_tta import GRPOTTA, UserError, load_backbone
from grpo_tta.backbones.classifiers import Classes, ClassifierBackbone, classes_of
from grpo_tta.backbones.imagenet_classes import class_names, wordnet_ids
from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.baselines.fitting import fitting_methods
from grpo_tta.baselines.registry import choose_methods, known_methods
from grpo_tta.bench.records import read_records
from grpo_tta.cli.main import app
from grpo_tta.engine.encode import encode_views
from grpo_tta.engine.own_weights import encode
from grpo_tta.engine.parameters import supported_sets
from grpo_tta.engine.policy import Policy
from tests.families import randomise, write_classifier

LABELS = ("cat", "dog", "red fish", "elk")
VIT = {"image_size": 32, "patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}


def random_model(library: str, name: str) -> nn.Module:
    torch.manual_seed(0)
    if library == "timm":
        model = timm.create_model(name, num_classes=4)
    elif name == "vit":
        model = torchvision.models.VisionTransformer(**VIT, num_classes=4)
    else:
        model = torchvision.models.get_model(name, weights=None, num_classes=4)
    randomise(model)
    return model


@pytest.mark.parametrize(
    ("library", "name", "blocks", "size", "tunes"),
    [
        ("timm", "tf_efficientnet_lite0", 16, 64, ("norm",)),
        ("timm", "convnext_atto", 15, 64, ("norm",)),
        ("timm", "regnetx_002", 4, 64, ("norm",)),
        ("timm", "mixer_s32_224", 8, 224, ("norm",)),
        ("timm", "beit_base_patch16_224", 1, 224, ("norm", "low-rank")),  # positions enter every block: not cut
        ("torchvision", "resnet18", 8, 64, ("norm",)),
        ("torchvision", "mobilenet_v3_small", 13, 64, ("norm",)),
        ("torchvision", "vit", 2, 32, ("norm", "low-rank")),
        ("torchvision", "densenet121", 1, 64, ("norm",)),  # a rectifier without a module behind its last norm: not cut
    ],
)
@torch.no_grad()
def test_every_kind_gives_its_own_logits(library: str, name: str, blocks: int, size: int, tunes: tuple[str, ...]) -> None:
    if name.startswith("beit"):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=4, depth=1, embed_dim=32, num_heads=2)
        randomise(model)
    else:
        model = random_model(library, name)
    own = copy.deepcopy(model).eval()
    backbone = ClassifierBackbone(name, model, class_names=LABELS, image_size=size)
    assert len(backbone.blocks) == blocks
    assert supported_sets(backbone) == tunes
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    expected = own(x)
    found = encode(backbone, x) @ backbone.class_rows(LABELS).T
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-5)


class Small(nn.Module):
    """A network of one's own."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.layers = nn.Sequential(*(nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(True))
                                      for _ in range(3)))  # fmt: skip
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.layers(self.embed(x))).flatten(1))


@pytest.fixture
def small() -> ClassifierBackbone:
    torch.manual_seed(0)
    model = Small()
    randomise(model)
    return ClassifierBackbone("small", model, class_names=LABELS, image_size=32)


@torch.no_grad()
def test_the_policy_is_the_softmax_of_the_networks_logits_over_the_labels(small: ClassifierBackbone) -> None:
    labels = ("elk", "cat", "Red_Fish")  # a subset, in another order, as people write it
    policy = Policy(small, make_prompts(small, labels))
    views = torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    encoded = encode_views(policy, views, views[:, :0])
    logits = small.reference_forward(views.flatten(0, 1)).unflatten(0, (2, 3))
    torch.testing.assert_close(encoded.log_probs, logits[..., [3, 0, 2]].log_softmax(-1), atol=1e-6, rtol=1e-6)
    rows, expected = policy.directions(policy.text_features), F.normalize(small._model.fc.weight[[3, 0, 2]], dim=-1)
    torch.testing.assert_close(rows, expected)
    torch.testing.assert_close(policy.directions(encoded.features).norm(dim=-1), torch.ones(2, 3))


def test_embeddings_are_of_unit_length_and_without_the_entry_of_the_bias(small: ClassifierBackbone, image: Image.Image) -> None:
    classifier = GRPOTTA(small, LABELS, settings="fast")
    assert classifier.embed(image).shape == (8,)
    assert float(classifier.embed(image).norm()) == pytest.approx(1, abs=1e-5)
    assert classifier.embed([]).shape == (0, 8)


def test_labels_that_are_no_class_are_refused(small: ClassifierBackbone) -> None:
    with pytest.raises(UserError, match="small knows no class 'red fisch'; did you mean 'red fish'"):
        make_prompts(small, ["cat", "red fisch"])
    with pytest.raises(UserError, match="knows no class 'submarine'; its 4 classes are others, such as 'cat'"):
        make_prompts(small, ["cat", "submarine"])
    with pytest.raises(UserError, match="is an image classifier and reads no text"):
        small.encode_text(["a photo"])


def test_imagenets_classes_go_by_wordnet_id_or_by_name_and_shared_names_need_the_id() -> None:
    known = classes_of("net", 1000, None)
    ids, names = list(wordnet_ids()), list(class_names().values())
    assert known.rows_of("net", ids) == known.rows_of("net", names) == list(range(1000))
    assert known.rows_of("net", ["goldfish", "n01440764"]) == [1, 0]
    with pytest.raises(UserError, match="2 classes named 'missile'; write n03773504 or n04008634"):
        known.rows_of("net", ["missile", "tench"])
    assert known.rows_of("net", ["n04008634", "tench"]) == [744, 0]


def test_names_of_the_classes() -> None:
    assert classes_of("net", 2, ["n01440764", "own"]) == Classes(("tench", "own"), ("n01440764", "own"))
    assert classes_of("net", 2, {"a": "first", "b": "second"}) == Classes(("first", "second"), ("a", "b"))
    with pytest.raises(UserError, match=r"net has 3 classes, and nothing says which.*--class-names"):
        classes_of("net", 3, None)
    with pytest.raises(UserError, match="net has 3 classes, but 2 different names"):
        classes_of("net", 3, ["a", "b"])


class Cosine(nn.Module):
    """Its logits are no rows of a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.fc(x.mean((2, 3)))


def test_what_is_no_classifier_is_refused() -> None:
    with pytest.raises(UserError, match="not those of one linear layer"):
        ClassifierBackbone("cosine", Cosine(), class_names=LABELS, image_size=32)
    with pytest.raises(UserError, match="does not read images of 40 x 40"):
        ClassifierBackbone("vit", torchvision.models.VisionTransformer(**VIT), image_size=40)


def test_every_method_that_needs_no_text_runs_and_the_others_say_why(small: ClassifierBackbone) -> None:
    _, left_out = fitting_methods(list(known_methods().values()), small, everything=True)
    assert {sentence.split()[0].removesuffix("-tuned") for sentence in left_out} == {
        "template-ensemble", "tpt", "ctpt", "fga-test-stage", "sts-ensemble", "clipartt", "watt", "batclip", "batclip-visual",
        "mint", "cliptta", "dota", "dota-pooled", "ttl", "lora-ttt",
    }  # fmt: skip
    assert all(
        any(why in sentence for why in ("reads no text", "tune the norms instead", "no attention")) for sentence in left_out
    ), left_out
    with pytest.raises(UserError, match="tpt cannot run: it works with text features, and small is an image classifier"):
        fitting_methods(choose_methods(["tpt"]), small, everything=False)
    assert [m.name for m in fitting_methods(choose_methods(["zero"]), small, everything=False)[0]] == ["zero"]


# ---- from files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net").mkdir()
    write_classifier("resnet18", tmp_path / "net", LABELS, 48, channels=(8, 8, 8, 16))
    return tmp_path / "net"


def logits(backbone: Any) -> Tensor:
    S = backbone.image_size
    with torch.no_grad():
        return backbone.reference_forward(torch.randn(1, 3, S, S, generator=torch.Generator().manual_seed(3)))


def test_a_folder_of_timm_loads_by_its_path_and_at_another_size(folder: Path) -> None:
    backbone, also = load_backbone(str(folder)), load_backbone(f"timm:{folder}")
    assert torch.equal(logits(backbone), logits(also))
    assert backbone.image_size == 48
    assert load_backbone(f"{folder}@64").image_size == 64
    # the published preprocessing cuts a margin off; at a size of one's own the whole image is read
    photo = Image.new("RGB", (64, 64), "white")
    photo.paste("black", (4, 4, 60, 60))
    said = json.loads((folder / "config.json").read_text())
    said["pretrained_cfg"] |= {"crop_pct": 0.75, "mean": [0, 0, 0], "std": [1, 1, 1]}
    (folder / "config.json").write_text(json.dumps(said))
    assert float(load_backbone(str(folder)).preprocess(photo).max()) < 0.5
    assert float(load_backbone(f"{folder}@48").preprocess(photo).max()) > 0.9


def test_on_a_cpu_the_channels_of_a_pixel_lie_side_by_side_and_nothing_else_changes(folder: Path) -> None:
    backbone: Any = load_backbone(str(folder), device="cpu")
    weights = [p for p in backbone.parameters() if p.ndim == 4 and min(p.shape[:2]) > 1 and p.shape[-1] > 1]
    assert all(p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous() for p in weights)
    assert backbone.stem(torch.zeros(2, 3, 48, 48)).is_contiguous(memory_format=torch.channels_last)
    found, name = logits(backbone), backbone.fingerprint
    backbone._model.to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(logits(backbone), found, rtol=1e-5, atol=1e-5)
    again = ClassifierBackbone(backbone.name, backbone._model, class_names=LABELS, image_size=48)
    assert again.fingerprint == name


def test_weights_from_a_file(folder: Path, tmp_path: Path) -> None:
    model = random_model("timm", "mobilenetv3_small_050")
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, tmp_path / "w.pth")
    found = [
        load_backbone("timm:mobilenetv3_small_050@64", weights=tmp_path / name, class_names=LABELS)
        for name in ("w.safetensors", "w.pth")
    ]
    with torch.no_grad():
        expected = model.eval()(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3)))
    for backbone in found:
        torch.testing.assert_close(logits(backbone), expected)
    vision = random_model("torchvision", "resnet18")
    torch.save(vision.state_dict(), tmp_path / "r.pt")
    backbone = load_backbone("torchvision:resnet18@64", weights=tmp_path / "r.pt", class_names=dict.fromkeys(LABELS, "x"))
    assert len(backbone.blocks) == 8


class Harmful:
    def __reduce__(self) -> Any:
        return print, ("run",)


@pytest.mark.parametrize(
    ("model", "content", "why"),
    [
        ("timm:mobilenetv3_small_050", None, "weights of timm:mobilenetv3_small_050 are not on this machine; give --weights"),
        ("torchvision:resnet18", None, "weights of torchvision:resnet18 are not on this machine"),
        ("timm:mobilenetv3_smal", None, "timm knows no model 'mobilenetv3_smal'; did you mean"),
        ("torchvision:resnet19", None, "torchvision knows no classifier 'resnet19'"),
        ("timm:mobilenetv3_small_050", {"x": torch.zeros(4)}, "hold no layer of classes"),
        ("timm:mobilenetv3_small_050", {"classifier.weight": torch.zeros(4, 8)}, "not the weights of"),
        ("timm:mobilenetv3_small_050", Harmful(), "holds more than tensors"),
        ("timm:mobilenetv3_small_050", [1], "holds no names with tensors"),
        ("nano-clip", {"x": torch.zeros(4)}, "the weights lack positional_embedding"),
    ],
)
def test_what_cannot_be_loaded_is_said(
    model: str, content: Any, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    if content is not None:
        torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=why):
        load_backbone(model, weights=None if content is None else tmp_path / "w.pth")


def test_bench_and_predict_take_a_classifier(folder: Path, tmp_path: Path) -> None:
    for label in LABELS[:2]:
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (60, 50), (40 * number, 90, 10)).save(tmp_path / "data" / label / f"{number}.png")
    names = tmp_path / "names.txt"
    names.write_text("dog\ncat\nbird\nelk\n")
    common = ["--model", "timm:resnet18", "--weights", str(folder / "model.safetensors"), "--class-names", str(names)]
    done = CliRunner().invoke(app, ["predict", str(tmp_path / "data"), "--labels", "cat,dog", *common, "--json"])
    assert done.exit_code != 0  # the folder's network is narrower than timm's
    assert "not the weights of timm:resnet18" in str(done.exception)
    common = ["--model", str(folder), "--class-names", str(names)]
    done = CliRunner().invoke(app, ["predict", str(tmp_path / "data"), "--labels", "cat,dog", *common, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["labels"] == ["cat", "dog"]
    chosen = "zero-shot,view-mean,vte-tuned,zero-tuned,mta-tuned,encoder-entropy-tuned,rlcf-tuned,tent,tda,"
    chosen += "boostadapter-tuned,encoder-entropy-full-tuned,"
    chosen += "grpo-tta,grpo-tta-fast,grpo-tta-online,reward-argmax"
    out = ["--out", str(tmp_path / "run"), "--methods", chosen]
    done = CliRunner().invoke(app, ["bench", "--data", str(tmp_path / "data"), *common, *out])
    assert done.exit_code == 0, done.output
    rows = read_records([tmp_path / "run"])
    assert rows["error"].isna().all(), rows["error"].dropna().iloc[0]
    assert set(rows["method"]) == set(chosen.split(","))
    done = CliRunner().invoke(app, ["bench", "--data", str(tmp_path / "data"), *common, "--methods", "tpt"])
    assert "tpt cannot run: it works with text features" in str(done.exception)
