from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from grpo_tta.baselines.boostadapter import BoostAdapterSettings, boostadapter_method
from grpo_tta.baselines.tda import TDASettings, tda_method
from grpo_tta.engine.interface import EncodedViews, ImageBatch
from grpo_tta.errors import UserError


def test_own_crop_boosts_its_class_by_hand(policy):
    """The image and its sure crop both say class c: alpha (1 + exp(-beta (1 - cos))) more for c. The other crop, which
    is less sure, is not selected. The stream's cache holds the image alone."""
    text = policy.text_features
    image, vague = F.normalize(0.9 * text[2] + 0.1 * text[0], dim=-1), F.normalize(text.sum(0), dim=-1)
    features = torch.stack([image, vague, text[2]])[None]
    log_probs = policy.log_probs(features)
    encoded = EncodedViews(features, log_probs, {}, 3)
    batch = ImageBatch(("p",), torch.zeros(1, 3, 3, 2, 2), torch.zeros(1, 0, 3, 2, 2), encoded, 0)
    settings = BoostAdapterSettings(views=3, selected=1, tda=TDASettings(negative_alpha=0.0))
    out, state = boostadapter_method(settings)(policy, batch, {})
    expected = log_probs[0, 0].clone()
    expected[2] += 2 * (1 + math.exp(-5 * (1 - float(image @ text[2]))))
    assert log_probs[0, [0, 2]].argmax(-1).tolist() == [2, 2]
    torch.testing.assert_close(out.after[0], expected.log_softmax(-1), atol=1e-4, rtol=0)
    assert int(state["positive.entropy"].isfinite().sum()) == 1


def test_the_stream_carries_tdas_caches(policy, images):
    boost, plain = boostadapter_method(BoostAdapterSettings(views=6, selected=2)), tda_method(TDASettings())
    batch = images(policy, boost, "abcd")
    out, state = boost(policy, batch, {})
    plain_out, plain_state = plain(policy, batch, {})
    torch.testing.assert_close(state, plain_state)
    assert (out.after - plain_out.after).abs().max() > 1e-3


def test_refuses_more_crops_than_there_are():
    with pytest.raises(UserError, match="1 to 3"):
        BoostAdapterSettings(views=4, selected=4)
