from __future__ import annotations

import math

import pytest
import torch

from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.baselines.clipartt import CLIPArTTSettings, clipartt_method, joined_labels
from grpo_tta.baselines.common import transductive_agreement, transductive_target
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError


def test_prompt():
    assert joined_labels(("ant", "bee", "cat"), torch.tensor([[2, 0], [1, 2]])) == ["cat or ant", "bee or cat"]


def test_target_by_hand():
    """Images alike (cos 1), prompts orthogonal, s = 2: exponents 2 (1 + 1) / 2 = 2 on the diagonal, 2 (1 + 0) / 2 = 1 off."""
    images, prompts = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.eye(2)
    p = math.e**2 / (math.e**2 + math.e)
    target = torch.tensor([[p, 1 - p], [1 - p, p]])
    torch.testing.assert_close(transductive_target(images, prompts, 2.0), target)
    # and the agreement: s <f_i, t_j> = (2, 0) for both images
    log = torch.tensor([2.0, 0.0]).log_softmax(0)
    expected = ((p + 1 - p) * log[0] + (1 - p + p) * log[1]) / 2
    torch.testing.assert_close(transductive_agreement(images, prompts, 2.0), expected)


def test_forgets_after_each_piece(policy, images, check_method):
    method = clipartt_method(CLIPArTTSettings(update_size=2, steps=3))
    check_method(policy, method)
    both, state = method(policy, images(policy, method, "abcd"), {})
    last, _ = method(policy, images(policy, method, "cd"), {})
    assert state == {}
    torch.testing.assert_close(both.after[2:].exp(), last.after.exp(), atol=1e-3, rtol=0)
    assert (both.after - both.before).abs().max() > 1e-3


def test_fewer_classes_than_candidates(backbone, images):
    policy = Policy(backbone, make_prompts(backbone, ("ant", "bee")))
    method = clipartt_method(CLIPArTTSettings(steps=1))
    assert torch.isfinite(method(policy, images(policy, method), {})[0].after).all()


def test_a_prompt_that_does_not_fit_is_refused(policy, images):
    method = clipartt_method(CLIPArTTSettings(candidates=5, steps=1))
    with pytest.raises(UserError, match="shorten"):
        method(policy, images(policy, method), {})
