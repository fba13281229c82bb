from __future__ import annotations

import torch
from torch.nn import functional as F

from grpo_tta.backbones.prompts import encode_classes, make_prompts
from grpo_tta.baselines.common import ensemble_features, template_features
from grpo_tta.baselines.template_ensemble import template_ensemble_method
from grpo_tta.engine.policy import Policy


def test_text_features_are_the_mean_over_templates(policy):
    assert template_features(policy).shape == (3, 5, 32)
    whole = encode_classes(policy.backbone, policy.prompts.labels, policy.prompts.ensemble)
    torch.testing.assert_close(ensemble_features(policy), whole)
    assert template_features(policy) is template_features(policy)  # read once


def test_prediction(policy, images):
    method = template_ensemble_method()
    batch = images(policy, method)
    out, _ = method(policy, batch, {})
    feature = F.normalize(policy.backbone.reference_forward(batch.views[:, 0]), dim=-1)
    expected = policy.backbone.logit_scale * feature @ ensemble_features(policy).T
    torch.testing.assert_close(out.after, expected.log_softmax(-1), atol=1e-4, rtol=0)
    assert (out.after - out.before).abs().max() > 1e-3


def test_one_template_is_zero_shot(backbone, images):
    policy = Policy(backbone, make_prompts(backbone, ("ant", "bee", "cat")))
    method = template_ensemble_method()
    out, _ = method(policy, images(policy, method), {})
    torch.testing.assert_close(out.after, out.before, atol=1e-5, rtol=0)
