from __future__ import annotations

import copy
import math

import pytest
import torch
from safetensors.torch import load, save
from torch.nn import functional as F

from grpo_tta.baselines.batclip import BATCLIPSettings, batclip_gain, batclip_method, pseudo_class_means
from grpo_tta.baselines.text_norms import PromptNorms
from grpo_tta.engine.distributions import entropy
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError

STREAM = tuple("abcdef")


def test_means_of_pseudo_classes_by_hand():
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    present, means = pseudo_class_means(features, torch.tensor([4, 4, 1]))
    assert present.tolist() == [1, 4]
    torch.testing.assert_close(means, torch.tensor([[0.0, 2.0], [2.0, 0.0]]))


def test_gain_by_hand():
    """Two images of class 0, (1, 0) and (3, 0), and one of class 1, (0, 2). Prompts (1, 0) and (0.6, 0.8).

    Match: (2 * 1 + 2 * 0.8) / 2 = 1.8. The means are at right angles: 1 + 1 = 2. Entropies: 0, 0 and that of a fair coin.
    """
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    text = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    log_probs = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5 - 1e-6, 0.5 + 1e-6]]).log()
    gain = batclip_gain(log_probs, features, text)
    assert gain.item() == pytest.approx(1.8 + 2 - math.log(2) / 3, abs=1e-5)


def run(policy, images, method, parts):
    """A stream in the given parts, its state through safetensors between them."""
    state, after = {}, []
    for names in parts:
        out, state = method(policy, images(policy, method, names), state)
        after.append(out.after)
        state = load(save(state))
    return torch.cat(after), state


@pytest.mark.parametrize("tune_text", [True, False])
def test_equals_torch_adamw_on_a_copy_of_the_model(policy, images, tune_text):
    """Three pieces of two, on the norms of a real copy (all but ln_pre), of the text encoder, too, or not."""
    method = batclip_method(BATCLIPSettings(update_size=2, tune_text=tune_text, learning_rate=1e-2, chunk=3))
    batch = images(policy, method, STREAM)
    out, _ = method(policy, batch, {})

    model = copy.deepcopy(policy.backbone._model).requires_grad_(False)
    norms = [m for name, m in model.visual.named_modules() if isinstance(m, torch.nn.LayerNorm) and name != "ln_pre"]
    if tune_text:
        norms += [m for m in model.transformer.modules() if isinstance(m, torch.nn.LayerNorm)] + [model.ln_final]
    optimizer = torch.optim.AdamW([p.requires_grad_() for norm in norms for p in norm.parameters()], lr=1e-2, weight_decay=0.01)
    template, labels = policy.prompts.templates[0], policy.prompts.labels
    tokens = policy.backbone.tokenize([template.format(label) for label in labels])
    expected = []
    for start in range(0, 6, 2):
        optimizer.zero_grad()
        seen = model.visual(batch.views[start : start + 2, 0])
        text = F.normalize(model.encode_text(tokens), dim=-1)
        log_probs = (policy.backbone.logit_scale * F.normalize(seen, dim=-1) @ text.T).log_softmax(-1)
        present, means = pseudo_class_means(seen, log_probs.argmax(-1))
        pairs = [(a, b) for a in range(len(present)) for b in range(len(present)) if a != b]
        apart = sum(1 - F.cosine_similarity(means[a], means[b], dim=0) for a, b in pairs)
        loss = entropy(log_probs).mean() - (means * text[present]).sum(-1).mean() - apart
        loss.backward()
        optimizer.step()
        expected.append(log_probs.detach())
    torch.testing.assert_close(out.after.exp(), torch.cat(expected).exp(), atol=1e-3, rtol=0)
    assert (out.after[2:] - out.before[2:]).abs().max() > 1e-2


def test_pieces_are_the_update_size_and_chunks_change_nothing(policy, images):
    method = batclip_method(BATCLIPSettings(update_size=2))
    whole, end = run(policy, images, method, [STREAM])
    parts, state = run(policy, images, method, [STREAM[:2], STREAM[2:4], STREAM[4:]])
    torch.testing.assert_close(whole, parts, atol=1e-3, rtol=0)
    assert int(state["optimizer.count"]) == 3
    assert end.keys() == state.keys()
    assert any(key.startswith("params.text.") for key in end)
    chunked, _ = run(policy, images, batclip_method(BATCLIPSettings(update_size=2, chunk=1)), [STREAM])
    torch.testing.assert_close(whole, chunked, atol=1e-3, rtol=0)


def test_prompts_start_as_the_policy_reads_them(policy):
    norms = PromptNorms(policy)
    assert len(norms.tunable.replaced) == 2 * (2 * 2 + 1)  # two blocks with two norms each, and the last
    features = norms.encode(norms.tunable.start(1), torch.tensor([3, 0]))
    torch.testing.assert_close(features, policy.text_features[[3, 0]], atol=1e-5, rtol=0)


def test_a_backbone_without_tunable_text_is_refused(policy):
    class Bare:
        name, device, logit_scale = "bare", policy.backbone.device, policy.backbone.logit_scale

    with pytest.raises(UserError, match="cannot tune text"):
        PromptNorms(Policy(Bare(), policy.prompts))


def test_refuses_bad_settings():
    with pytest.raises(UserError, match="update_size"):
        BATCLIPSettings(update_size=0)
