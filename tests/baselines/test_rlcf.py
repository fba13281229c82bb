from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.baselines.rlcf import RLCFSettings, clip_reward, rewarded_log_likelihood, rlcf_method, teacher_cosine
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError


def test_reward_by_hand():
    """2.5 (0.4, 0.2, -0.8) = (1, 0.5, -2), relu (1, 0.5, 0), mean 0.5."""
    torch.testing.assert_close(clip_reward(torch.tensor([0.4, 0.2, -0.8]), 2.5), torch.tensor([0.5, 0.0, -0.5]))


def test_objective_by_hand():
    """One view, top 2 of (0.5, 0.2, 0.3) are classes 0 and 2 with rewards (-0.25, 0.25):
    mean(-0.25 log 0.5, 0.25 log 0.3) = 0.125 log 0.6."""
    log_probs = torch.tensor([[[0.5, 0.2, 0.3]]]).log()
    found = rewarded_log_likelihood(log_probs, torch.tensor([[[0.2, 0.9, 0.4]]]), 2, 2.5)
    torch.testing.assert_close(found, 0.125 * torch.tensor([0.6]).log())


@pytest.mark.parametrize("tuned", ["norm", "whole"])
def test_small_setting(policy, check_method, tuned):
    check_method(policy, rlcf_method(RLCFSettings(views=5, selected=2, tuned=tuned, learning_rate=1e-3)))


def test_a_teacher_is_asked_in_its_own_normalisation(policy, tiny_backbone):
    backbone = tiny_backbone(seed=3)
    teacher = Policy(backbone, make_prompts(backbone, policy.prompts.labels))
    teacher.backbone.mean, teacher.backbone.std = torch.full((3,), 0.4), torch.full((3,), 0.2)
    views = torch.randn(2, 3, 3, 24, 24)
    found = teacher_cosine(policy, teacher, views)
    pixels = ((views * 0.5 + 0.5) - 0.4) / 0.2
    features = F.normalize(backbone.reference_forward(pixels.flatten(0, 1)), dim=-1)
    torch.testing.assert_close(found, (features @ teacher.text_features.T).unflatten(0, (2, 3)), atol=1e-4, rtol=0)


def test_a_teacher_of_another_size_is_asked_in_its_own_size(policy, tiny_backbone):
    """Of even images nothing is lost by resizing."""
    backbone = tiny_backbone(seed=3, image_size=40)
    teacher = Policy(backbone, make_prompts(backbone, policy.prompts.labels))
    shades = torch.linspace(-1, 1, 4)[None, :, None, None, None]
    found = teacher_cosine(policy, teacher, shades.expand(1, 4, 3, 24, 24))
    features = F.normalize(backbone.reference_forward(shades[0].expand(4, 3, 40, 40)), dim=-1)
    torch.testing.assert_close(found[0], features @ teacher.text_features.T, atol=1e-4, rtol=0)


def test_the_teacher_decides_where_the_policy_goes(policy, tiny_backbone, images, check_method):
    backbone = tiny_backbone(seed=3)
    teacher = Policy(backbone, make_prompts(backbone, policy.prompts.labels))
    settings = RLCFSettings(views=5, selected=2, learning_rate=1e-3)
    own, taught = rlcf_method(settings), rlcf_method(settings, teacher)
    assert (own.reward, taught.reward) == ("own", "teacher")
    check_method(policy, taught)
    batch = images(policy, own)
    a, b = own(policy, batch, {})[0], taught(policy, batch, {})[0]
    assert (a.after - b.after).abs().max() > 1e-4
    assert b.cost.forwards == a.cost.forwards + 2


def test_a_teacher_with_other_classes_is_refused(policy, backbone, images):
    teacher = Policy(backbone, make_prompts(backbone, ("bee", "ant", "cat", "dog", "elk")))
    method = rlcf_method(RLCFSettings(views=2, selected=1), teacher)
    with pytest.raises(UserError, match="other classes"):
        method(policy, images(policy, method), {})


def test_fewer_classes_than_candidates(backbone, images):
    policy = Policy(backbone, make_prompts(backbone, ("ant", "bee")))
    method = rlcf_method(RLCFSettings(views=2, selected=1))
    assert torch.isfinite(method(policy, images(policy, method), {})[0].after).all()
