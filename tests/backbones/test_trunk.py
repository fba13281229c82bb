"""What makes the frozen encoder cheaper: a last block for the class token alone, and bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import final

import open_clip
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from typer.testing import CliRunner

from grpo_tta import GRPOTTA
from grpo_tta.backbones.base import load_backbone
from grpo_tta.backbones.blocks import ClassTokenBlock
from grpo_tta.backbones.open_clip import OpenClipBackbone
from grpo_tta.cli.main import app
from grpo_tta.engine.parameters import LowRank, NormAffine, Tune
from grpo_tta.engine.per_image import PerImage
from grpo_tta.errors import UserError
from tests import families
from tests.conftest import TINY, tiny_model


def test_the_last_block_keeps_the_class_token_alone(backbone: OpenClipBackbone) -> None:
    last = backbone.blocks[-1]
    assert isinstance(last, ClassTokenBlock)
    whole = tiny_model().visual.transformer.resblocks[-1]
    tokens = torch.randn(3, 17, 64)
    with torch.no_grad():
        torch.testing.assert_close(last(tokens), whole(tokens)[:, :1], atol=1e-5, rtol=1e-5)
    assert [name for name, _ in last.named_parameters()] == [name for name, _ in whole.named_parameters()]


@final
class Operations(TorchDispatchMode):
    """Names of the kernels that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("last_blocks", [1, 2])
def test_projections_are_one_product_and_not_one_a_token(backbone: OpenClipBackbone, last_blocks: int) -> None:
    """torch turns a turned tensor's projection into a batch of products, nine times as slow in bfloat16."""
    tunable = NormAffine(last_blocks)(backbone)
    tokens = torch.randn(4, 17, 64)
    with torch.no_grad(), PerImage(tunable, tunable.start(2)), Operations() as operations:
        backbone.head(torch.nn.Sequential(*backbone.blocks[-last_blocks:])(tokens))
    assert operations.seen & {"addmm", "_linear_pointwise"}  # by MKL, or by oneDNN
    assert "bmm" not in operations.seen
    with torch.no_grad(), Operations() as operations:
        backbone.blocks[-1](tokens)
    assert "bmm" not in operations.seen


@pytest.mark.parametrize("head", [{"pool_type": "avg"}, {"attentional_pool": True}])
def test_a_head_that_reads_all_tokens_keeps_the_whole_block(head: dict[str, object]) -> None:
    model = open_clip.model.CLIP(**TINY | {"vision_cfg": TINY["vision_cfg"] | head})
    model.visual.preprocess_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    backbone = OpenClipBackbone("all", model, lambda image: image, lambda texts: torch.zeros(1, 16))
    assert not isinstance(backbone.blocks[-1], ClassTokenBlock)


@pytest.mark.parametrize("tune", [NormAffine(1), LowRank(last_blocks=1)])
def test_own_parameters_of_the_last_block_as_in_the_whole_block(backbone: OpenClipBackbone, tune: Tune) -> None:
    """Two images' own parameters against the plain block that holds them."""
    tunable = tune(backbone)
    own = {name: value.detach() + 0.1 * torch.randn_like(value) for name, value in tunable.start(2).items()}
    tokens = torch.randn(4, 17, 64)  # two views of two images
    with torch.no_grad(), PerImage(tunable, own):
        made = backbone.head(backbone.blocks[-1](tokens))
    visual = tiny_model().visual
    for b in range(2):
        values = {name: parameter.clone() for name, parameter in visual.named_parameters()}
        for name in tunable.replaced:
            place = name.replace("blocks.", "transformer.resblocks.").replace("head.", "")
            values[place] = own[name][b]
        for name, (_, pairs) in tunable.deltas.items():
            place = name.replace("blocks.", "transformer.resblocks.")
            for pair in pairs:
                values[place][pair.rows] += own[pair.up][b] @ own[pair.down][b]

        class Rest(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.visual = visual

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.visual._pool(self.visual.transformer.resblocks[-1](x))[0] @ self.visual.proj

        with torch.no_grad():
            named = {f"visual.{name}": value for name, value in values.items()}
            expected = torch.func.functional_call(Rest(), named, (tokens[2 * b : 2 * b + 2],))
        torch.testing.assert_close(made[2 * b : 2 * b + 2], expected, atol=1e-4, rtol=1e-4)


def test_bfloat16_is_of_the_visual_encoder_alone(image: Image.Image, tmp_path: Path) -> None:
    half = load_backbone("nano-clip", dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    assert half.encode_text(["a photo of a star."]).dtype == torch.float32
    assert half.fingerprint != load_backbone("nano-clip").fingerprint
    labels = ["star", "heart", "arrow"]
    near, exact = (GRPOTTA("nano-clip", labels, dtype=d).predict(image) for d in ("bfloat16", "float32"))  # type: ignore[arg-type]
    assert near.probability == pytest.approx(exact.probability, abs=0.1)
    assert near.probability != exact.probability
    tunable = NormAffine(1)(half)
    assert {value.dtype for value in tunable.start(1).values()} == {torch.float32}


@pytest.mark.parametrize("family", ["transformers-clip", "transformers-siglip"])
def test_bfloat16_in_transformers_backbones(family: str, tmp_path: Path, image: Image.Image) -> None:
    folder = str(families.write(family, tmp_path / "model"))
    answer = GRPOTTA(folder, ["cat", "dog"], dtype="bfloat16").predict(image)
    assert answer.probability == pytest.approx(GRPOTTA(folder, ["cat", "dog"]).predict(image).probability, abs=0.1)


def test_bfloat16_on_the_command_line(image: Image.Image, tmp_path: Path) -> None:
    image.save(tmp_path / "p.png")
    command = ["predict", str(tmp_path / "p.png"), "--labels", "star,heart", "--dtype"]
    assert CliRunner().invoke(app, [*command, "bfloat16"]).exit_code == 0
    refused = CliRunner().invoke(app, [*command, "float8"])
    assert refused.exit_code != 0
    with pytest.raises(UserError, match="Unknown dtype 'float8'; use float32 or bfloat16"):
        load_backbone("nano-clip", dtype="float8")  # type: ignore[arg-type]
