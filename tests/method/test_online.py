"""GRPO-TTA with shared parameters: the prior, its guard, the state and what is forgotten."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from grpo_tta.engine.distributions import kl_divergence, log_mean_probs
from grpo_tta.engine.encode import encode_views
from grpo_tta.engine.interface import ImageBatch, Method
from grpo_tta.engine.optim import SGD
from grpo_tta.engine.parameters import NormAffine
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.online import stream_method
from grpo_tta.method.online_gate import BiasGate
from grpo_tta.method.online_prior import StreamCounts, stream_prior
from grpo_tta.method.online_settings import ON_POLICY_STREAM, StreamSettings
from grpo_tta.method.prediction import StreamEnsemble
from grpo_tta.method.settings import ALONG_A_STREAM, Steps

SMALL = replace(ALONG_A_STREAM, views=ViewSettings(views=4, content_free=2), tune=NormAffine())
ONLINE = StreamSettings(SMALL, update_size=4)
ON_POLICY = replace(ONLINE, on_policy=True)
BOTH = pytest.mark.parametrize("settings", [ONLINE, ON_POLICY, replace(ON_POLICY, gate=BiasGate())])


def batch_of(policy: Policy, method: Method, n: int = 8, start: int = 0) -> ImageBatch:
    generator = torch.Generator().manual_seed(3)
    views = torch.randn(16, 6, 3, 32, 32, generator=generator)[start : start + n]
    content_free = torch.randn(16, 3, 3, 32, 32, generator=generator)[start : start + n]
    encoded = encode_views(policy, views, content_free, method.cached_blocks(policy.backbone))
    return ImageBatch(tuple(f"x{i}" for i in range(start, start + n)), views, content_free, encoded, 0)


def test_the_prior_by_hand() -> None:
    settings = replace(ONLINE, pseudo_images=4.0, guard=None)
    # (3 + 4 / 2) / (4 + 4) and (1 + 2) / 8
    found = stream_prior(StreamCounts(torch.tensor([3.0, 1.0]), torch.zeros(2), 4.0), settings).exp()
    torch.testing.assert_close(found, torch.tensor([0.625, 0.375]))


def test_a_class_that_is_merely_frequent_is_not_held_back() -> None:
    settings = replace(ONLINE, pseudo_images=1e-6, guard=2.0)
    frequent = torch.tensor([8.0, 1.0, 0.5, 0.5])
    even, favoured = torch.full((4,), 2.5), torch.tensor([7.0, 1.0, 1.0, 1.0])
    # content_free that favour nothing: 0.8 is cut to 2 * 0.25, then everything is renormalised over 0.7
    cut = torch.tensor([0.5, 0.1, 0.05, 0.05]) / 0.7
    torch.testing.assert_close(stream_prior(StreamCounts(frequent, even, 10.0), settings).exp(), cut, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        stream_prior(StreamCounts(frequent, favoured, 10.0), settings).exp(), frequent / 10, atol=1e-5, rtol=0
    )


@BOTH
def test_state_goes_on_where_it_stopped(policy: Policy, settings: StreamSettings) -> None:
    method = stream_method(settings, "grpo-tta-online")
    whole, _ = method(policy, batch_of(policy, method, 16), {})
    first, state = method(policy, batch_of(policy, method, 8), {})
    second, _ = method(policy, batch_of(policy, method, 8, start=8), state)
    torch.testing.assert_close(torch.cat([first.after, second.after]), whole.after, atol=1e-4, rtol=1e-4)
    assert float(state["prior.count"]) == 8
    fresh, _ = method(policy, batch_of(policy, method, 8, start=8), {})
    assert (fresh.after - second.after).abs().max() > 1e-3


@BOTH
def test_a_batch_is_forgotten(policy: Policy, settings: StreamSettings) -> None:
    method = stream_method(replace(settings, protocol="batch"), "grpo-tta-batch")
    whole, state = method(policy, batch_of(policy, method, 8), {})
    second, _ = method(policy, batch_of(policy, method, 4, start=4), {})
    assert state == {}
    torch.testing.assert_close(whole.after[4:], second.after, atol=1e-5, rtol=1e-5)


@BOTH
def test_the_model_is_bitwise_unchanged(policy: Policy, settings: StreamSettings) -> None:
    before = [p.detach().clone() for p in policy.backbone.parameters()]
    method = stream_method(settings, "grpo-tta-online")
    method(policy, batch_of(policy, method), {})
    assert all(torch.equal(a, b) for a, b in zip(before, policy.backbone.parameters(), strict=True))


@BOTH
def test_a_full_anchor_forgets_the_parameters(policy: Policy, settings: StreamSettings) -> None:
    method = stream_method(replace(settings, anchor=1.0), "grpo-tta-online")
    _, state = method(policy, batch_of(policy, method), {})
    parameter = dict(policy.backbone.blocks[0].named_parameters())["ln_1.weight"]
    torch.testing.assert_close(state["params.blocks.0.ln_1.weight"][0], parameter.detach())


def answers_of(policy: Policy, settings: StreamSettings, n: int = 8) -> torch.Tensor:
    method = stream_method(settings, "grpo-tta-stream")
    return method(policy, batch_of(policy, method, n), {})[0].after


def with_steps(settings: StreamSettings, steps: Steps) -> StreamSettings:
    return replace(settings, grpo=replace(settings.grpo, steps=steps))


def test_on_policy_the_first_minibatch_is_that_of_the_frozen_rewards(policy: Policy) -> None:
    """The current model is the frozen one until the first step."""
    frozen, on_policy = answers_of(policy, ONLINE), answers_of(policy, ON_POLICY)
    torch.testing.assert_close(on_policy[:4], frozen[:4], atol=1e-5, rtol=1e-5)
    assert (on_policy[4:] - frozen[4:]).abs().max() > 1e-4


def test_on_policy_the_running_mean_is_that_of_the_current_model(policy: Policy) -> None:
    settings = with_steps(ON_POLICY, Steps(1, SGD(3.0)))
    method = stream_method(settings, "grpo-tta-stream")
    frozen = stream_method(replace(settings, on_policy=False), "grpo-tta-online")
    of_frozen, of_current = (each(policy, batch_of(policy, each, 8), {})[1]["prior.images"] for each in (frozen, method))
    torch.testing.assert_close(of_current.sum(), torch.tensor(8.0))
    assert (of_current - of_frozen).abs().max() > 1e-2, "the second minibatch was read by the frozen model"
    # what content-free views favour stays the frozen model's
    states = [each(policy, batch_of(policy, each, 8), {})[1]["prior.content_free"] for each in (frozen, method)]
    torch.testing.assert_close(states[0], states[1])


def test_without_a_step_both_forms_answer_alike(policy: Policy) -> None:
    still = Steps(0)
    found = [answers_of(policy, with_steps(settings, still)) for settings in (ONLINE, ON_POLICY)]
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)
    # the answer before the step is that without a step, in the first minibatch
    early = answers_of(policy, replace(ON_POLICY, answer_after=False))
    torch.testing.assert_close(early[:4], found[1][:4], atol=1e-5, rtol=1e-5)
    assert (early[4:] - found[1][4:]).abs().max() > 1e-4


def test_the_clip_acts_on_the_second_step(policy: Policy) -> None:
    def answers(count: int, clip: float) -> torch.Tensor:
        return answers_of(policy, with_steps(ON_POLICY, Steps(count, SGD(3.0), clip=clip)), 4)

    torch.testing.assert_close(answers(1, 1e-3), answers(1, 1e3))
    assert (answers(2, 1e-3) - answers(2, 1e3)).abs().max() > 1e-3


def test_the_kl_is_measured_from_the_frozen_model(policy: Policy) -> None:
    """After a first minibatch the model has moved, so the very first step of the second already has a KL to lower."""

    def distance(kl: float) -> float:
        free = with_steps(ON_POLICY, Steps(1, SGD(3.0)))
        bound = with_steps(replace(free, anchor=0.0), Steps(1, SGD(3.0), kl=kl))
        method = stream_method(free, "grpo-tta-stream")
        _, state = method(policy, batch_of(policy, method, 4), {})
        batch = batch_of(policy, method, 4, start=4)
        after = stream_method(replace(bound, guard=None, grpo=replace(bound.grpo, predict=StreamEnsemble(prior=0.0))), "x")
        return float(kl_divergence(after(policy, batch, state)[0].after, log_mean_probs(batch.encoded.log_probs[:, :4])).mean())

    assert distance(1e3) < 0.9 * distance(0.0)


def test_costs_of_the_stream(policy: Policy) -> None:
    def cost(settings: StreamSettings) -> tuple[float, float]:
        method = stream_method(settings, "grpo-tta-stream")
        return method(policy, batch_of(policy, method, 4), {})[0].cost.of(0)

    # the frozen model reads 4 views, 2 content-free ones and 2 coarse ones; the current one 4 views twice
    assert cost(ON_POLICY_STREAM) == (4 + 2 + 2 + 4 + 4, 4)
    assert sum(cost(ON_POLICY_STREAM)) <= 20
    assert cost(replace(ON_POLICY_STREAM, answer_after=False)) == (4 + 2 + 2 + 4, 4)
    assert cost(replace(ON_POLICY_STREAM, gate=None)) == (4 + 2 + 4 + 4, 4)
    assert cost(with_steps(ON_POLICY_STREAM, Steps(3))) == (4 + 2 + 2 + 3 * 4 + 4, 12)
    assert cost(with_steps(ON_POLICY_STREAM, Steps(0))) == (4 + 2 + 2 + 4, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer_after": False}, "on-policy stream can answer before"),
        ({"update_size": 0}, "update_size"),
        ({"anchor": 2.0}, "anchor"),
        ({"pseudo_images": 0.0}, "pseudo"),
        ({"guard": 0.0}, "guard"),
        ({"protocol": "episodic"}, "choose batch or online"),
        ({"grpo": replace(SMALL, views=ViewSettings(views=4, content_free=0))}, "guard needs content-free views"),
        ({"grpo": replace(SMALL, steps=Steps(max_kl=0.1))}, "max_kl"),
    ],
)
def test_bad_settings_name_the_remedy(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(ONLINE, **changes)
