from __future__ import annotations

import math

import pytest
import torch

from grpo_tta.baselines.ttl import TTLSettings, ttl_method, weighted_confidence
from grpo_tta.engine.distributions import entropy
from grpo_tta.errors import UserError


def test_weighted_entropy_by_hand():
    """Two views of two classes: a fair coin (H = log 2, weight e^0.4 / 2) and a certain one (H = 0)."""
    log_probs = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]]).log()
    expected = -0.5 * math.exp(0.4) / 2 * math.log(2)
    assert weighted_confidence(log_probs, 0.4).item() == pytest.approx(expected, rel=1e-6)


def test_no_gradient_through_the_weights():
    logits = torch.tensor([[[0.3, 0.0]]], requires_grad=True)
    H = entropy(logits.log_softmax(-1))
    (plain,) = torch.autograd.grad(-H.sum(), logits)
    (found,) = torch.autograd.grad(weighted_confidence(logits.log_softmax(-1), 0.4).sum(), logits)
    torch.testing.assert_close(found, plain * math.exp(0.4 - H.item()))


def test_a_step_sharpens(policy, images, check_method):
    method = ttl_method(TTLSettings(views=6, last_blocks=1))
    check_method(policy, method)
    out, _ = method(policy, images(policy, method), {})
    assert entropy(out.after).mean() < entropy(out.before).mean()
    assert out.cost.backwards == pytest.approx(6 / 3)


def test_refuses_bad_settings():
    with pytest.raises(UserError, match="rank"):
        TTLSettings(rank=0)
