"""transformers' VisionTextDualEncoderModel: a tiny random ViT or DINOv2 with a tiny random BERT, from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    Dinov2Config,
    Dinov2Model,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from grpo_tta import GRPOTTA, UserError, load_backbone
from grpo_tta.engine.own_weights import encode
from grpo_tta.engine.parameters import supported_sets
from tests.families import LABELS, WORDS, randomise

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture(params=["vit", "dinov2"])
def backbone(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    torch.manual_seed(0)
    if request.param == "vit":
        vision: Any = ViTModel(ViTConfig(**SHAPE, image_size=32, patch_size=8))
    else:
        vision = Dinov2Model(
            Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
        )
    text = BertModel(BertConfig(**SHAPE, vocab_size=len(WORDS) + 5, max_position_embeddings=12))
    model = VisionTextDualEncoderModel(vision_model=vision, text_model=text)
    randomise(model)
    model.save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    (tmp_path / "words").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizer(str(tmp_path / "words"), model_max_length=12).save_pretrained(tmp_path)
    return load_backbone(str(tmp_path))


@torch.no_grad()
def test_it_is_split_where_that_gives_its_own_features(backbone: Any) -> None:
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(encode(backbone, x), backbone.reference_forward(x), atol=1e-5, rtol=1e-5)
    kind = backbone._model.config.vision_config.model_type
    assert len(backbone.blocks) == {"vit": 2, "dinov2": 1}[kind]
    assert "norm" in supported_sets(backbone)


@torch.no_grad()
def test_text_is_the_models_own_and_does_not_depend_on_its_neighbours(backbone: Any) -> None:
    prompts = ["a photo of a cat", "cat"]
    together, alone = backbone.encode_text(prompts), backbone.encode_text(prompts[1:])
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-5)
    tokens = backbone._tokenizer(prompts[0], return_tensors="pt")
    own = backbone._model(pixel_values=torch.zeros(1, 3, 32, 32), **tokens).text_embeds
    torch.testing.assert_close(torch.nn.functional.normalize(together[:1], dim=-1), own, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match=r"takes 14 tokens, but .* reads 12"):
        backbone.encode_text(["cat " * 12])


def test_it_adapts_and_stays_as_it_was(backbone: Any, image: Image.Image) -> None:
    before = {name: value.clone() for name, value in backbone._model.state_dict().items()}
    answer = GRPOTTA(backbone, LABELS).predict(image)
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert answer.probabilities != answer.probabilities_before
    assert all(torch.equal(before[name], value) for name, value in backbone._model.state_dict().items())
