"""Whether imbalance is bias: the weight by hand, the coarse views, and what the gate does to the prior."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from grpo_tta.engine.encode import encode_views
from grpo_tta.engine.interface import ImageBatch
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError
from grpo_tta.images.views import ImageViews, ViewSettings
from grpo_tta.method.grpo import reference_pass
from grpo_tta.method.online_gate import BiasGate, GateCounts, gate_counts_of
from grpo_tta.method.online_prior import with_stream_prior
from grpo_tta.method.online_settings import StreamSettings
from grpo_tta.method.settings import ALONG_A_STREAM

EVEN, ONE_SIDED = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])
DIFFERENCE = math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1)  # 0.3681 nats


def test_the_weight_by_hand() -> None:
    # the stream is even and content-free views are not: bias
    assert BiasGate(gain=2.0)(EVEN, ONE_SIDED) == pytest.approx(2 * DIFFERENCE, abs=1e-5)
    assert BiasGate(gain=5.0)(EVEN, ONE_SIDED) == 1.0
    # the stream is one-sided and content-free views are not: a stream of few classes
    assert BiasGate()(ONE_SIDED, EVEN) == 0.0
    assert BiasGate()(EVEN, EVEN) == 0.0
    # a class that never occurs has no part in an entropy
    assert BiasGate(gain=1.0)(EVEN, torch.tensor([1.0, 0.0])) == pytest.approx(math.log(2), abs=1e-5)


def test_both_means_start_with_an_even_one() -> None:
    # (6 + 2) / (6 + 4 + 4) and (4 + 2) / 14 of the images; (10 + 2) / 14 and 2 / 14 of the coarse views
    counts = GateCounts(torch.tensor([6.0, 4.0]), torch.tensor([10.0, 0.0]), 10.0)
    images, coarse = (-sum(p * math.log(p) for p in means) for means in ((8 / 14, 6 / 14), (12 / 14, 2 / 14)))
    assert counts.weight(BiasGate(gain=1.0), pseudo_images=4.0) == pytest.approx(images - coarse, abs=1e-5)


def batch_of(policy: Policy, names: tuple[str, ...] = ("a", "b")) -> ImageBatch:
    views = torch.randn(len(names), 4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    content_free = torch.randn(len(names), 2, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    return ImageBatch(names, views, content_free, encode_views(policy, views, content_free, (0,)), 7)


def test_coarse_views_are_the_content_free_views_of_that_grid(policy: Policy, image) -> None:
    batch = batch_of(policy)
    made = BiasGate(views=2, grid=4).coarse_views(batch)
    assert made.shape == (2, 2, 3, 32, 32)
    settings = ViewSettings(content_free=2, patch_grid=4)
    for number, name in enumerate(batch.image_ids):
        mean, std = policy.backbone.mean, policy.backbone.std
        same = ImageViews(image, batch.views[number, 0], name, batch.seed, settings, mean, std).content_free()
        torch.testing.assert_close(made[number], same)
    assert not torch.equal(made[0, 0], made[0, 1])


def test_counts_go_on_from_a_state(policy: Policy) -> None:
    batch, gate = batch_of(policy), BiasGate()
    ensemble = reference_pass(policy, batch.encoded, SETTINGS.grpo).ensemble
    once = gate_counts_of({}, policy, batch.views.device).add(policy, batch, gate, ensemble)
    assert once.count == 2
    torch.testing.assert_close(once.images.sum(), torch.tensor(2.0))
    torch.testing.assert_close(once.coarse.sum(), torch.tensor(2.0))
    twice = gate_counts_of(once.state(), policy, batch.views.device).add(policy, batch, gate, ensemble)
    torch.testing.assert_close(twice.coarse, 2 * once.coarse)
    assert twice.count == 4


SETTINGS = StreamSettings(
    replace(ALONG_A_STREAM, views=ViewSettings(views=4, content_free=2)), pseudo_images=1.0, gate=BiasGate(gain=0.01)
)


def test_the_weight_multiplies_the_log_prior(policy: Policy) -> None:
    batch = batch_of(policy)
    reference = reference_pass(policy, batch.encoded, SETTINGS.grpo)
    plain, _ = with_stream_prior(policy, batch, reference, replace(SETTINGS, gate=None), {})
    gated, state = with_stream_prior(policy, batch, reference, SETTINGS, {})
    weight = gate_counts_of(state, policy, batch.views.device).weight(BiasGate(gain=0.01), 1.0)
    assert plain.stream is not None
    assert gated.stream is not None
    torch.testing.assert_close(gated.stream, weight * plain.stream)
    assert {"prior.images", "gate.images", "gate.coarse"} <= set(state)


@pytest.mark.parametrize(("changes", "message"), [({"gain": 0.0}, "gain"), ({"views": 0}, "views"), ({"grid": 1}, "grid")])
def test_bad_settings_name_the_remedy(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        BiasGate(**changes)
