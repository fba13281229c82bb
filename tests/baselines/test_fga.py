from __future__ import annotations

import pytest
import torch

from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.baselines.fga import FGASettings, fga_method, flatness_scores, perturbed_text
from grpo_tta.baselines.tpt import ContextPrompts
from grpo_tta.engine.distributions import entropy
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError


def test_scores_by_hand():
    """Two views with entropies 0.5 and 0.6, and 0.9 and 0.7 (0.1 and 0.65) under the two perturbed prompts."""
    entropies = torch.tensor([[0.5, 0.6], [0.9, 0.7], [0.1, 0.65]])
    torch.testing.assert_close(flatness_scores(entropies, 2.0), torch.tensor([0.5 + 0.8, 0.6 + 0.2]))


def test_perturbations_have_the_radius_and_belong_to_the_run(policy):
    settings = FGASettings(perturbations=3, chunk=4)
    text = perturbed_text(policy, settings, 0)
    assert text.shape == (4, 5, 32)
    torch.testing.assert_close(text[0], policy.text_features, atol=1e-5, rtol=0)
    assert (text[1:] - text[0]).abs().amax((1, 2)).min() > 1e-4
    other = Policy(policy.backbone, policy.prompts)
    torch.testing.assert_close(text, perturbed_text(other, settings, 0), atol=1e-6, rtol=0)
    assert (text[1:] - perturbed_text(policy, settings, 1)[1:]).abs().max() > 1e-4


def test_the_length_of_a_perturbation(policy, monkeypatch):
    seen = []
    encode = ContextPrompts.encode
    monkeypatch.setattr(
        ContextPrompts, "encode", lambda self, context, pairs: seen.append(context) or encode(self, context, pairs)
    )
    perturbed_text(policy, FGASettings(perturbations=2, radius=0.5), 0)
    lengths = (seen[0][1:] - seen[0][:1]).flatten(1).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.tensor([0.5, 0.5]))


def test_with_no_radius_the_most_confident_views_vote(policy, images):
    method = fga_method(FGASettings(views=8, selected=3, radius=0.0))
    batch = images(policy, method)
    out, _ = method(policy, batch, {})
    for b, log_probs in enumerate(batch.encoded.log_probs):
        voters = log_probs[entropy(log_probs).argsort()[:3]]
        shares = torch.nn.functional.one_hot(voters.argmax(-1), 5).float().mean(0) + 1e-3 * voters.exp().mean(0)
        torch.testing.assert_close(out.after[b].exp(), shares / shares.sum(), atol=1e-5, rtol=0)


def test_sharp_views_lose_their_vote(policy, images):
    """With a large weight the order of the views is another one."""
    plain, sharp = (fga_method(FGASettings(views=8, selected=2, radius=r, sharpness=100.0)) for r in (0.0, 2.0))
    batch = images(policy, plain, "pqrstuvw")
    assert (plain(policy, batch, {})[0].after - sharp(policy, batch, {})[0].after).abs().max() > 1e-3


def test_a_template_without_context_is_refused(backbone, images):
    policy = Policy(backbone, make_prompts(backbone, ("ant", "bee"), ("{} here.",)))
    method = fga_method(FGASettings(views=4, selected=2))
    with pytest.raises(UserError, match="no words before the label"):
        method(policy, images(policy, method), {})
