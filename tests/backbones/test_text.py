"""The text that a model reads is the same through open_clip and through transformers, whatever its tokenizer does by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from open_clip.tokenizer import HFTokenizer

from grpo_tta.backbones.base import load_backbone
from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.backbones.transformers import TransformersBackbone
from grpo_tta.errors import UserError
from tests import families

PROMPTS = ["a photo of a Star.", "A Photo of a star", "a photo of a red_circle!", "a photo  of a circle, red.", "STAR"]


def write_plain_tokenizer(folder: Path) -> None:
    """A token a word and a sign. Like Gemma's, it keeps case and punctuation."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [
        "cat",
        "dog",
        "a",
        "photo",
        "of",
        "star",
        "Star",
        "STAR",
        "A",
        "Photo",
        "red",
        "circle",
        ".",
        ",",
        "!",
        "_",
        "red_circle",
    ]
    vocabulary = {"<unk>": 0, "</s>": 1, "<s>": 2} | {word: n for n, word in enumerate(words, 3)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="</s>", model_input_names=["input_ids"]
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = families.write("transformers-siglip", tmp_path_factory.mktemp("models") / "siglip")
    write_plain_tokenizer(made)
    return made


def test_siglips_text_is_canonical_in_both_routes(folder: Path) -> None:
    backbone = load_backbone(str(folder))
    assert isinstance(backbone, TransformersBackbone)
    other = HFTokenizer(str(folder), context_length=backbone._context, clean="canonicalize")
    tokens = backbone.tokenize(PROMPTS)
    torch.testing.assert_close(tokens, other(PROMPTS))
    assert (tokens[0] == tokens[1]).all()
    assert not (tokens == 0).any()  # nothing is an unknown word


def test_labels_that_differ_in_case_alone_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="reads the labels 'star' and 'Star' alike"):
        make_prompts(load_backbone(str(folder)), ["star", "circle", "Star"])
