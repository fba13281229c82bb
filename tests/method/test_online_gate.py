"""Whether imbalance is bias or truth: the weight by hand, the coarse views, and what the gate does to the prior."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from grpo_tta.engine.distributions import relative_entropy
from grpo_tta.engine.encode import encode_views
from grpo_tta.engine.interface import ImageBatch
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError
from grpo_tta.images.views import ImageViews, ViewSettings
from grpo_tta.method.grpo import reference_pass
from grpo_tta.method.online_gate import BiasGate, Evidence, ramp
from grpo_tta.method.online_prior import counts_of
from grpo_tta.method.online_settings import StreamSettings

EVEN, ONE_SIDED, OTHER_SIDE = torch.tensor([0.5, 0.5]), torch.tensor([0.8, 0.2]), torch.tensor([0.2, 0.8])
LOGITS = st.lists(st.floats(-4, 4), min_size=3, max_size=30).filter(lambda logits: max(logits) - min(logits) > 0.1)


def seen(images: Tensor, coarse: Tensor, count: float = 1000, entropy: float = 1.0) -> Evidence:
    return Evidence(images, coarse, torch.tensor(entropy), count)


def bias_only(low: float, high: float, **changes: float) -> BiasGate:
    return BiasGate(low, high, **{"doubt": 0.0, "early": 0.0, "truth": 0.0} | changes)


def test_the_weight_of_bias_by_hand() -> None:
    # l(q) = (log 2, -log 2), and l(g) = b l(q) for g with odds 4^b: the slope is b
    g = torch.tensor([4**0.9, 1.0]) / (4**0.9 + 1)
    torch.testing.assert_close(bias_only(0.8, 1.0)(seen(ONE_SIDED, g)), torch.tensor(0.5))
    torch.testing.assert_close(bias_only(0.4, 1.4)(seen(ONE_SIDED, g)), torch.tensor(0.5))
    # lean = 0.8 log 1.6 + 0.2 log 0.4 = 0.19274 nats: 0.9 + 0.5 - 0.19274 = 1.20726, between 1.1 and 1.3
    weight = bias_only(1.1, 1.3, doubt=1)(seen(ONE_SIDED, g, entropy=0.5))
    torch.testing.assert_close(weight, torch.tensor(0.5363), atol=1e-4, rtol=0)
    # 0.9 - 8 / 40 = 0.7
    torch.testing.assert_close(bias_only(0.6, 0.8, early=8)(seen(ONE_SIDED, g, 40)), torch.tensor(0.5))
    # content-free views lean further: bias. Not at all, or the other way: a stream that holds more of the first class
    assert BiasGate()(seen(ONE_SIDED, torch.tensor([0.9, 0.1]))) == 1.0
    assert BiasGate()(seen(ONE_SIDED, EVEN)) == BiasGate()(seen(ONE_SIDED, OTHER_SIDE)) == 0.0
    # a stream that does not lean leaves nothing to divide out, or to multiply in
    assert BiasGate()(seen(EVEN, ONE_SIDED, entropy=0.0)) == 0.0


def test_the_weight_of_truth_by_hand() -> None:
    # halfway: a lean of 0.19274 nats from 0.09274 to 0.29274, an entropy of 0.35 from 0.4 to 0.3; a slope of 0 is beyond
    gate = BiasGate(leans=(0.09274, 0.29274))
    torch.testing.assert_close(gate(seen(ONE_SIDED, EVEN, entropy=0.35)), torch.tensor(-0.25), atol=1e-4, rtol=0)
    torch.testing.assert_close(gate(seen(ONE_SIDED, EVEN, entropy=0.1)), torch.tensor(-0.5), atol=1e-4, rtol=0)
    assert gate(seen(ONE_SIDED, EVEN, entropy=0.5)) == 0.0, "a model that is sure of nothing knows no truth"
    # a slope of 0.98 is a fifth of the way from 1 to 0.9
    g = torch.tensor([4**0.98, 1.0]) / (4**0.98 + 1)
    gate = BiasGate(low=2.0, high=3.0, leans=(0.0, 0.1), truth=0.5)
    torch.testing.assert_close(gate(seen(ONE_SIDED, g, entropy=0.1)), torch.tensor(-0.1), atol=1e-3, rtol=0)


def test_a_ramp_rises_either_way() -> None:
    values = torch.tensor([0.0, 1.0, 1.25, 3.0])
    torch.testing.assert_close(ramp(values, 1.0, 2.0), torch.tensor([0.0, 0.0, 0.25, 1.0]))
    torch.testing.assert_close(ramp(values, 2.0, 1.0), torch.tensor([1.0, 1.0, 0.75, 0.0]))


@given(LOGITS, st.floats(0.1, 3))
def test_the_slope_depends_on_no_scale(logits: list[float], slope: float) -> None:
    """A model of twice the logits and a list of labels twice as long have the same slope."""
    q = torch.tensor(logits, dtype=torch.float64)
    for factor in (1.0, 2.0):
        images, coarse = (factor * q).softmax(0), (factor * slope * q).softmax(0)
        assert float(seen(images, coarse).slope) == pytest.approx(slope, abs=1e-6)
        assert float(seen(images.repeat(2) / 2, coarse.repeat(2) / 2).slope) == pytest.approx(slope, abs=1e-6)


@given(LOGITS)
def test_a_list_of_labels_twice_as_long_leans_as_far(logits: list[float]) -> None:
    q = torch.tensor(logits, dtype=torch.float64).softmax(0)
    assert float(seen(q.repeat(2) / 2, q.repeat(2) / 2).lean) == pytest.approx(float(seen(q, q).lean), abs=1e-6)


@given(LOGITS, LOGITS, st.floats(0, 1), st.floats(1, 1e4))
def test_the_weight_is_from_minus_one_to_one(images: list[float], coarse: list[float], entropy: float, count: float) -> None:
    classes = min(len(images), len(coarse))
    q, g = (torch.tensor(logits[:classes]).softmax(0) for logits in (images, coarse))
    assert -1 <= float(BiasGate()(seen(q, g, count, entropy))) <= 1


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
    batch, settings = batch_of(policy), StreamSettings()
    ensemble = reference_pass(policy, batch.encoded, settings.grpo).ensemble
    once = counts_of({}, policy, batch.views.device).add(policy, batch, ensemble, settings)
    assert once.count == 2
    torch.testing.assert_close(once.images.sum(), torch.tensor(2.0))
    torch.testing.assert_close(once.coarse.sum(), torch.tensor(2.0))
    twice = counts_of(once.state(), policy, batch.views.device).add(policy, batch, ensemble, settings)
    torch.testing.assert_close(twice.coarse, 2 * once.coarse)
    assert twice.count == 4
    torch.testing.assert_close(once.entropy, relative_entropy(ensemble).sum())
    torch.testing.assert_close(twice.entropy, 2 * once.entropy)
    without = counts_of({}, policy, batch.views.device).add(policy, batch, ensemble, StreamSettings(gate=None))
    assert without.coarse.sum() == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low": 1.3}, "low must be"),
        ({"sure": (0.4, 0.4)}, "sure must be two different"),
        ({"truth": 2.0}, "truth"),
        ({"doubt": -1}, "doubt"),
        ({"early": -1}, "early"),
        ({"views": 0}, "views"),
        ({"grid": 1}, "grid"),
    ],
)
def test_bad_settings_name_the_remedy(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        BiasGate(**changes)
