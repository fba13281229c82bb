from __future__ import annotations

import pytest
import torch

from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.baselines.encoder_entropy import mean_confidence
from grpo_tta.baselines.tpt import ContextPrompts, TPTSettings, tpt_method
from grpo_tta.engine.distributions import entropy
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError


def test_the_context_is_four_tokens_and_starts_as_the_prompt_itself(policy):
    prompts = ContextPrompts(policy)
    assert prompts.context.shape == (4, 32)
    features = prompts.encode(prompts.context[None], torch.arange(5))
    torch.testing.assert_close(features, policy.text_features, atol=1e-5, rtol=0)


def test_the_context_does_not_swallow_words_that_all_labels_share(backbone):
    policy = Policy(backbone, make_prompts(backbone, ("the digit one", "the digit two")))
    assert len(ContextPrompts(policy).context) == 4


def test_a_template_without_context_is_refused(backbone):
    policy = Policy(backbone, make_prompts(backbone, ("ant", "bee"), ("{} here.",)))
    with pytest.raises(UserError, match="no words before the label"):
        ContextPrompts(policy)


def test_a_backbone_without_tunable_text_is_refused(policy):
    class Bare:
        name, device, logit_scale = "bare", policy.backbone.device, policy.backbone.logit_scale

    with pytest.raises(UserError, match="cannot tune text"):
        ContextPrompts(Policy(Bare(), policy.prompts))


def test_one_step_is_adamw_through_the_whole_text_encoder(policy, images):
    """Against torch's own AdamW on one leaf and one graph, without chunks."""
    settings = TPTSettings(views=8, selected=3, learning_rate=5e-3, weight_decay=0.01, chunk=2)
    method = tpt_method(settings)
    batch = images(policy, method, ["p"])
    out, _ = method(policy, batch, {})

    prompts = ContextPrompts(policy)
    context = torch.nn.Parameter(prompts.context[None].clone())
    optimizer = torch.optim.AdamW([context], lr=5e-3, weight_decay=0.01)
    entropies = entropy(batch.encoded.log_probs[0])
    chosen = batch.encoded.features[0, entropies.argsort()[:3]]
    scale = policy.backbone.logit_scale
    log_probs = (scale * chosen @ prompts.encode(context, torch.arange(5)).T).log_softmax(-1)
    (-mean_confidence(log_probs[None]).sum()).backward()
    optimizer.step()
    with torch.no_grad():
        text = prompts.encode(context, torch.arange(5))
    expected = (scale * batch.encoded.features[0, 0] @ text.T).log_softmax(-1)
    torch.testing.assert_close(out.after[0], expected, atol=1e-4, rtol=0)
    assert (out.after - out.before).abs().max() > 1e-3


def test_three_steps_lower_the_entropy(policy, images, check_method):
    method = tpt_method(TPTSettings(views=8, selected=8, steps=3, learning_rate=2e-2))
    check_method(policy, method)
    out, _ = method(policy, images(policy, method), {})
    assert entropy(out.after).mean() < entropy(out.before).mean()
