from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from grpo_tta.baselines.common import class_log_probs, ensemble_features
from grpo_tta.baselines.vte import VTESettings, vte, vte_method
from grpo_tta.engine.interface import EncodedViews
from grpo_tta.errors import UserError


def test_mean_of_the_confident_view(policy):
    """Three views: one looks like class 2, the others between classes. With M = 1 only the sure one counts."""
    text = ensemble_features(policy)
    between = F.normalize(text.mean(0), dim=-1)
    features = torch.stack([between, text[2], between])[None]  # [1, 3, D]
    encoded = EncodedViews(features, policy.log_probs(features), {}, 3)
    out = vte(policy, encoded, VTESettings(views=3, selected=1))
    torch.testing.assert_close(out.after[0], class_log_probs(policy, text[2], text))
    out = vte(policy, encoded, VTESettings(views=3, selected=3))
    mean = F.normalize(features[0].mean(0), dim=-1)
    torch.testing.assert_close(out.after[0], class_log_probs(policy, mean, text))


def test_small_setting(policy, check_method):
    check_method(policy, vte_method(VTESettings(views=5, selected=2)))


def test_refuses_more_views_than_there_are():
    with pytest.raises(UserError, match="1 to 4"):
        VTESettings(views=4, selected=5)
