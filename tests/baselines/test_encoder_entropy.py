from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from grpo_tta.baselines.encoder_entropy import EncoderEntropySettings, encoder_entropy_method, mean_confidence
from grpo_tta.engine.distributions import entropy
from grpo_tta.engine.own_weights import read_parameters
from grpo_tta.errors import UserError


def test_the_loss_is_the_entropy_of_the_mean():
    """Two opposite sure views: mean (1/2, 1/2), entropy log 2, although each alone has none."""
    log_probs = torch.tensor([[[1 - 1e-9, 1e-9], [1e-9, 1 - 1e-9]]], dtype=torch.float64).log()
    assert mean_confidence(log_probs).item() == pytest.approx(-math.log(2))


@pytest.mark.parametrize("tuned", ["norm", "whole"])
def test_steps_lower_the_entropy(policy, images, check_method, tuned):
    method = encoder_entropy_method(EncoderEntropySettings(views=6, selected=3, tuned=tuned, learning_rate=1e-3))
    check_method(policy, method)
    out, _ = method(policy, images(policy, method), {})
    assert entropy(out.after).mean() < entropy(out.before).mean()


def test_the_whole_visual_encoder_is_tuned_and_nothing_of_the_text(policy):
    found = {id(p) for p in read_parameters(policy.backbone, torch.zeros(1, 3, 24, 24)).values()}
    assert found == {id(p) for p in policy.backbone._model.visual.parameters()}


def test_whole_encoder_equals_torch_on_a_copy_of_the_model(policy, images):
    """Three steps of torch's own AdamW on a real copy of the visual encoder."""
    settings = EncoderEntropySettings(views=6, selected=6, tuned="whole", learning_rate=1e-4)
    method = encoder_entropy_method(settings)
    batch = images(policy, method, ["p"])
    out, _ = method(policy, batch, {})

    visual = copy.deepcopy(policy.backbone._model.visual).requires_grad_()
    optimizer = torch.optim.AdamW(visual.parameters(), lr=1e-4, weight_decay=5e-4)
    for _ in range(3):
        optimizer.zero_grad()
        (-mean_confidence(policy.log_probs(visual(batch.views[0]))[None]).sum()).backward()
        optimizer.step()
    with torch.no_grad():
        expected = policy.log_probs(visual(batch.views[0, :1]))[0]
    torch.testing.assert_close(out.after[0].exp(), expected.exp(), atol=1e-3, rtol=0)
    assert F.kl_div(out.before[0], expected, reduction="sum", log_target=True) > 1e-4


def test_refuses_an_unknown_part():
    with pytest.raises(UserError, match="norm or whole"):
        EncoderEntropySettings(tuned="half")
