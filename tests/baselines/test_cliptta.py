from __future__ import annotations

import copy
import math

import pytest
import torch
from safetensors.torch import load, save
from torch.nn import functional as F

from grpo_tta.baselines.cliptta import (
    CLIPTTASettings,
    cliptta_method,
    contrastive_gain,
    recall,
    remember,
    surest,
)
from grpo_tta.engine.distributions import entropy
from grpo_tta.errors import UserError

STREAM = tuple("abcdef")


def test_gain_by_hand():
    """Two images of class 0 and one of class 2, at a scale of log 2, all of them (1, 0); prompts (1, 0) and (0, 1).

    Over the three prompts an image's logits are log 2, log 2 and 0: q = (0.4, 0.4, 0.2). The mean of p is (1/3, 1/3, 1/3).
    """
    features = torch.tensor([[1.0, 0.0]] * 3)
    text = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    log_probs = torch.tensor([[0.5, 0.4, 0.1], [0.5, 0.3, 0.2], [0.0, 0.3, 0.7]]).log()
    H = -(0.8 * math.log(0.4) + 0.2 * math.log(0.2))
    assert contrastive_gain(features, text, log_probs, math.log(2), 2.0).item() == pytest.approx(2 * math.log(3) - H, abs=1e-5)
    assert contrastive_gain(features, text, log_probs, math.log(2), 0.0).item() == pytest.approx(-H, abs=1e-5)


def test_the_surest_of_each_class():
    classes, sureness = torch.tensor([1, 0, 1, 1, 0]), torch.tensor([0.1, 0.5, 0.9, 0.3, 0.4])
    assert surest(classes, sureness, 2).tolist() == [1, 4, 2, 3]
    assert surest(classes, sureness, 1).tolist() == [1, 2]


def test_the_memory_keeps_what_is_surer_and_recalls_a_part():
    tokens = torch.arange(4.0).reshape(4, 1, 1)
    said = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]]).log()
    memory = remember({}, tokens[:2], said[:2], 2)
    memory = remember(memory, tokens[2:], said[2:], 2)
    assert memory["memory.tokens"].flatten().tolist() == [0, 3, 2]  # image 1 gave way to image 3
    assert memory["memory.classes"].tolist() == [0, 0, 1]
    generator = torch.Generator().manual_seed(0)
    drawn = {tuple(recall(memory, 1, generator).flatten().tolist()) for _ in range(20)}
    assert drawn == {(0.0, 2.0), (3.0, 2.0)}
    assert sorted(recall(memory, 2, generator).flatten().tolist()) == [0, 2, 3]


def test_equals_torch_adam_on_a_copy_of_the_model(policy, images):
    """Two pieces of three with two steps each; the memory holds all images, and a step takes all of it."""
    method = cliptta_method(CLIPTTASettings(update_size=3, steps=2, learning_rate=1e-2, shots=6))
    batch = images(policy, method, STREAM)
    out, _ = method(policy, batch, {})

    visual = copy.deepcopy(policy.backbone._model.visual).requires_grad_(False)
    norms = [m for name, m in visual.named_modules() if isinstance(m, torch.nn.LayerNorm) and name != "ln_pre"]
    optimizer = torch.optim.Adam([p.requires_grad_() for norm in norms for p in norm.parameters()], lr=1e-2)
    expected = []

    def loss(pixels):
        z = F.normalize(visual(pixels), dim=-1)
        log_probs = policy.log_probs(z)
        q = (policy.backbone.logit_scale * z @ policy.text_features[log_probs.argmax(-1)].T).log_softmax(-1)
        return (entropy(q).mean() - entropy(log_probs.exp().mean(0).log())) / 2

    for start in (0, 3):
        for _ in range(2):
            optimizer.zero_grad()
            (loss(batch.views[start : start + 3, 0]) + loss(batch.views[: start + 3, 0])).backward()
            optimizer.step()
        with torch.no_grad():
            expected.append(policy.log_probs(visual(batch.views[start : start + 3, 0])))
    torch.testing.assert_close(out.after.exp(), torch.cat(expected).exp(), atol=2e-3, rtol=0)
    assert (out.after - out.before).abs().max() > 2e-2


def test_the_cost_is_that_of_what_was_recalled(policy, images):
    """Three images and a memory of three, then three and of six; a step costs 1 + 3 / 3 and 1 + 6 / 3 passes an image.

    The second piece is read once more, as the model sees it before the steps.
    """
    method = cliptta_method(CLIPTTASettings(update_size=3, steps=2, shots=6))
    out, _ = method(policy, images(policy, method, STREAM), {})
    assert [out.cost.of(image) for image in (0, 2, 3, 5)] == [(5, 4), (5, 4), (8, 6), (8, 6)]


def test_a_stream_in_parts_is_the_stream(policy, images):
    method = cliptta_method(CLIPTTASettings(update_size=2, steps=2, learning_rate=1e-3, shots=2, recalled=5))
    whole, end = method(policy, images(policy, method, STREAM), {})
    state, after = {}, []
    for names in (STREAM[:2], STREAM[2:]):
        out, state = method(policy, images(policy, method, names), load(save(state)))
        after.append(out.after)
    torch.testing.assert_close(torch.cat(after).exp(), whole.after.exp(), atol=1e-3, rtol=0)
    assert end["memory.classes"].tolist() == state["memory.classes"].tolist()


def test_refuses_bad_settings():
    with pytest.raises(UserError, match="shots"):
        CLIPTTASettings(shots=0)
