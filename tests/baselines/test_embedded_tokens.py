"""The text encoder from embeddings equals the library's own, and carries gradients to the embeddings alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from grpo_tta.errors import UserError

PROMPTS = ["a photo of a cat.", "an image of a very small dog."]


@pytest.mark.parametrize("custom_text", [False, True])
def test_equals_encode_text(tiny_backbone, custom_text):
    backbone = tiny_backbone(custom_text=custom_text)
    embeddings, tokens = backbone.embed_tokens(PROMPTS)
    assert embeddings.dtype == torch.float32
    assert embeddings.shape[:2] == tokens.shape
    torch.testing.assert_close(backbone.encode_embeddings(embeddings, tokens), backbone.encode_text(PROMPTS), atol=1e-5, rtol=0)


def test_other_embeddings_give_other_features_and_a_gradient(tiny_backbone):
    backbone = tiny_backbone()
    embeddings, tokens = backbone.embed_tokens(PROMPTS)
    embeddings = (embeddings + 0.1 * torch.randn_like(embeddings)).requires_grad_()
    features = backbone.encode_embeddings(embeddings, tokens)
    assert (features - backbone.encode_text(PROMPTS)).abs().max() > 1e-3
    (gradient,) = torch.autograd.grad(features.square().sum(), embeddings)
    assert gradient[:, 1:4].abs().sum() > 0
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in backbone.parameters())


def test_a_text_encoder_without_token_table_is_refused(tiny_backbone, monkeypatch):
    backbone = tiny_backbone()
    monkeypatch.setattr(backbone._model, "token_embedding", nn.Identity())
    with pytest.raises(UserError, match="cannot tune text"):
        backbone.embed_tokens(PROMPTS)


def test_prompts_that_are_too_long_are_refused(tiny_backbone):
    with pytest.raises(UserError, match="shorten"):
        tiny_backbone().embed_tokens(["a " * 30])
