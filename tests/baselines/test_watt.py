from __future__ import annotations

import pytest
import torch

from grpo_tta.baselines.common import class_log_probs, ensemble_features
from grpo_tta.baselines.watt import WATTSettings, average_weights, watt_method
from grpo_tta.errors import UserError


def test_average_of_weights():
    reached = [{"w": torch.tensor([[1.0, 4.0]])}, {"w": torch.tensor([[3.0, 0.0]])}]
    assert average_weights(reached)["w"].tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize("order", ["sequential", "parallel"])
def test_orders(policy, images, check_method, order):
    method = watt_method(WATTSettings(update_size=2, inner_steps=1, rounds=2, order=order))
    check_method(policy, method)
    both, state = method(policy, images(policy, method, "abcd"), {})
    last, _ = method(policy, images(policy, method, "cd"), {})
    assert state == {}
    torch.testing.assert_close(both.after[2:].exp(), last.after.exp(), atol=1e-3, rtol=0)


def test_the_orders_differ(policy, images):
    outs = []
    for order in ("sequential", "parallel"):
        method = watt_method(WATTSettings(order=order))
        outs.append(method(policy, images(policy, method), {})[0].after)
    assert (outs[0] - outs[1]).abs().max() > 1e-4


def test_predicts_with_the_mean_of_the_templates(policy, images):
    """At a vanishing learning rate what is left is the prompt ensemble."""
    method = watt_method(WATTSettings(learning_rate=1e-12, rounds=1))
    batch = images(policy, method)
    out, _ = method(policy, batch, {})
    expected = class_log_probs(policy, batch.encoded.features[:, 0], ensemble_features(policy))
    torch.testing.assert_close(out.after, expected, atol=1e-4, rtol=0)


def test_refuses_an_unknown_order():
    with pytest.raises(UserError, match="sequential or parallel"):
        WATTSettings(order="random")
