"""GRPO-TTA with shared parameters: the prior, the state, what is forgotten, and what it costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from grpo_tta.baselines.zero import ZeroSettings, zero_method
from grpo_tta.engine.distributions import kl_divergence, log_mean_probs
from grpo_tta.engine.encode import encode_for, encode_views
from grpo_tta.engine.interface import ImageBatch, Method
from grpo_tta.engine.optim import SGD
from grpo_tta.engine.parameters import NormAffine
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.grpo import reference_pass
from grpo_tta.method.online import first_views, room_left, step_share, stream_method
from grpo_tta.method.online_gate import BiasGate
from grpo_tta.method.online_prior import StreamCounts, stream_prior
from grpo_tta.method.online_settings import BATCH, ONLINE, StreamSettings
from grpo_tta.method.prediction import StreamEnsemble
from grpo_tta.method.rewards import Alignment
from grpo_tta.method.settings import ALONG_A_STREAM, Steps
from grpo_tta.method.weighting import MostConfident

SMALL = replace(ALONG_A_STREAM, views=ViewSettings(views=4, content_free=0))
OPEN = BiasGate(-9.0, -8.0, doubt=0, early=0, truth=0)  # whatever the slope is; random models lean nowhere in particular
TRUTH = BiasGate(1e6, 2e6, leans=(-2.0, -1.0), sure=(3.0, 2.0), fades=(1e7, 1e6))  # whatever a stream shows is its truth
STREAM = StreamSettings(SMALL, update_size=4, answer_after=True, step_kl=None, gate=OPEN)
FROZEN = replace(STREAM, on_policy=False)
FORMS = pytest.mark.parametrize(
    "settings",
    [STREAM, FROZEN, replace(STREAM, gate=None), replace(STREAM, answer_after=False)],
    ids=["stream", "frozen", "no gate", "answer before"],
)


def batch_of(policy: Policy, method: Method, n: int = 8, start: int = 0) -> ImageBatch:
    generator = torch.Generator().manual_seed(3)
    views = torch.randn(16, 6, 3, 32, 32, generator=generator)[start : start + n]
    content_free = torch.randn(16, 3, 3, 32, 32, generator=generator)[start : start + n]
    encoded = encode_views(policy, views, content_free)
    return ImageBatch(tuple(f"x{i}" for i in range(start, start + n)), views, content_free, encoded, 0)


def test_the_prior_by_hand() -> None:
    # (3 + 4 / 2) / (4 + 4) and (1 + 2) / 8
    counts = StreamCounts(torch.tensor([3.0, 1.0]), torch.tensor([4.0, 0.0]), torch.tensor(3.2), 4.0)
    settings = replace(STREAM, pseudo_images=4.0, gate=None)
    prior, weight = stream_prior(counts, settings)
    torch.testing.assert_close(prior, torch.tensor([0.625, 0.375]).log())
    assert weight == 1.0
    # content-free views lean further, by log(6 / 2) against log(5 / 3): all of it is bias
    assert stream_prior(counts, replace(settings, gate=BiasGate(early=0)))[1] == 1.0
    # a slope of log 3 / log(5 / 3) = 2.1507, of which the gate makes (2.1507 - 2) / (3 - 2)
    gate = BiasGate(2.0, 3.0, doubt=0, early=0, truth=0)
    assert float(stream_prior(counts, replace(settings, gate=gate))[1]) == pytest.approx(0.1507, abs=1e-4)


def test_the_gate_is_the_length_of_the_step_too(policy: Policy) -> None:
    """A gate that never opens learns nothing; one that is half open goes half of the way."""
    name = "params.blocks.0.ln_1.weight"

    def learnt(gate: BiasGate | None) -> torch.Tensor:
        settings = with_steps(replace(STREAM, gate=gate, anchor=0.0), Steps(1, SGD(3.0)))
        method = stream_method(replace(settings, grpo=replace(settings.grpo, reward=Alignment())), "x")
        start = NormAffine()(policy.backbone).start(1)["blocks.0.ln_1.weight"]
        return method(policy, batch_of(policy, method, 4), {})[1][name] - start

    full = learnt(None)
    assert full.abs().max() > 1e-3
    assert learnt(BiasGate(1e6, 2e6, truth=0)).abs().max() == 0
    assert learnt(TRUTH).abs().max() == 0, "what occurs often is nothing to learn from"
    half = learnt(BiasGate(-1e6, 1e6))  # whatever the slope is, it is close to the middle
    torch.testing.assert_close(half, full / 2, atol=1e-5, rtol=1e-3)


@FORMS
def test_state_goes_on_where_it_stopped(policy: Policy, settings: StreamSettings) -> None:
    method = stream_method(settings, "grpo-tta-online")
    whole, _ = method(policy, batch_of(policy, method, 16), {})
    first, state = method(policy, batch_of(policy, method, 8), {})
    second, _ = method(policy, batch_of(policy, method, 8, start=8), state)
    torch.testing.assert_close(torch.cat([first.after, second.after]), whole.after, atol=1e-4, rtol=1e-4)
    assert float(state["prior.count"]) == 8
    fresh, _ = method(policy, batch_of(policy, method, 8, start=8), {})
    assert (fresh.after - second.after).abs().max() > 1e-3


@FORMS
def test_a_batch_is_forgotten(policy: Policy, settings: StreamSettings) -> None:
    method = stream_method(replace(settings, protocol="batch", answer_after=True), "grpo-tta-batch")
    whole, state = method(policy, batch_of(policy, method, 8), {})
    second, _ = method(policy, batch_of(policy, method, 4, start=4), {})
    assert state == {}
    torch.testing.assert_close(whole.after[4:], second.after, atol=1e-5, rtol=1e-5)


@FORMS
def test_the_model_is_bitwise_unchanged(policy: Policy, settings: StreamSettings) -> None:
    before = [p.detach().clone() for p in policy.backbone.parameters()]
    method = stream_method(settings, "grpo-tta-online")
    method(policy, batch_of(policy, method), {})
    assert all(torch.equal(a, b) for a, b in zip(before, policy.backbone.parameters(), strict=True))


@FORMS
def test_a_full_anchor_forgets_the_parameters(policy: Policy, settings: StreamSettings) -> None:
    method = stream_method(replace(settings, anchor=1.0), "grpo-tta-online")
    _, state = method(policy, batch_of(policy, method), {})
    parameter = dict(policy.backbone.blocks[0].named_parameters())["ln_1.weight"]
    torch.testing.assert_close(state["params.blocks.0.ln_1.weight"][0], parameter.detach())


def answers_of(policy: Policy, settings: StreamSettings, n: int = 8) -> torch.Tensor:
    method = stream_method(settings, "grpo-tta-online")
    return method(policy, batch_of(policy, method, n), {})[0].after


def with_steps(settings: StreamSettings, steps: Steps) -> StreamSettings:
    return replace(settings, grpo=replace(settings.grpo, steps=steps))


def test_on_policy_the_first_minibatch_is_that_of_the_frozen_rewards(policy: Policy) -> None:
    """The current model is the frozen one until the first step."""
    frozen, on_policy = answers_of(policy, FROZEN), answers_of(policy, STREAM)
    torch.testing.assert_close(on_policy[:4], frozen[:4], atol=1e-5, rtol=1e-5)
    assert (on_policy[4:] - frozen[4:]).abs().max() > 1e-4


def test_the_running_mean_is_that_of_the_current_model(policy: Policy) -> None:
    settings = with_steps(STREAM, Steps(1, SGD(3.0)))
    methods = [stream_method(each, "x") for each in (replace(settings, on_policy=False), settings)]
    of_frozen, of_current = (each(policy, batch_of(policy, each, 8), {})[1] for each in methods)
    torch.testing.assert_close(of_current["prior.images"].sum(), torch.tensor(8.0))
    assert (of_current["prior.images"] - of_frozen["prior.images"]).abs().max() > 1e-2, "the second minibatch was read frozen"
    # what content-free views favour stays the frozen model's
    torch.testing.assert_close(of_current["prior.coarse"], of_frozen["prior.coarse"])
    torch.testing.assert_close(of_current["prior.coarse"].sum(), torch.tensor(8.0))


def test_truth_is_multiplied_in(policy: Policy) -> None:
    without, truth = (
        answers_of(policy, with_steps(replace(STREAM, gate=gate), Steps(0)), 4) for gate in (BiasGate(1e6, 2e6, truth=0), TRUTH)
    )
    prior = (without.exp().sum(0) + STREAM.pseudo_images / policy.classes) / (4 + STREAM.pseudo_images)
    torch.testing.assert_close(truth, (without + prior.log()).log_softmax(-1), atol=1e-5, rtol=1e-5)


def test_without_a_step_all_forms_answer_alike(policy: Policy) -> None:
    found = [answers_of(policy, with_steps(settings, Steps(0))) for settings in (FROZEN, STREAM)]
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)
    # the answer before the step is that without a step, in the first minibatch
    early = answers_of(policy, replace(STREAM, answer_after=False))
    torch.testing.assert_close(early[:4], found[1][:4], atol=1e-5, rtol=1e-5)
    assert (early[4:] - found[1][4:]).abs().max() > 1e-4


def test_the_drift_is_bounded(policy: Policy) -> None:
    assert [float(room_left(torch.tensor(kl), 2.0)) for kl in (0.0, 1.0, 1.5, 2.0, 9.0)] == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert float(room_left(torch.tensor(9.0), None)) == 1.0
    name, free = "params.blocks.0.ln_1.weight", with_steps(replace(STREAM, anchor=0.0, gate=None), Steps(1, SGD(3.0)))

    def moved(max_kl: float | None) -> float:
        method = stream_method(replace(free, max_kl=max_kl), "x")
        _, state = method(policy, batch_of(policy, method, 4), {})
        _, later = method(policy, batch_of(policy, method, 4, start=4), state)
        return float((later[name] - state[name]).detach().abs().max())

    assert moved(1e-6) == 0 < moved(None)


def test_a_model_that_grows_less_sure_stops_learning(policy: Policy) -> None:
    name, free = "params.blocks.0.ln_1.weight", with_steps(replace(STREAM, anchor=0.0, gate=None), Steps(1, SGD(3.0)))

    def moved(max_rise: float | None) -> float:
        """How far the second minibatch goes, of a model that reads it as if it had been surer when it was frozen."""
        method = stream_method(replace(free, max_rise=max_rise), "x")
        _, state = method(policy, batch_of(policy, method, 4), {})
        batch = batch_of(policy, method, 4, start=4)
        sure = (3.0 * batch.encoded.log_probs).log_softmax(-1)
        batch = replace(batch, encoded=replace(batch.encoded, log_probs=sure))
        return float((method(policy, batch, state)[1][name] - state[name]).detach().abs().max())

    assert moved(1e-4) == 0 < moved(None)


def test_a_step_is_as_long_as_its_kl_allows(policy: Policy) -> None:
    # four times the KL is twice the step
    assert [float(step_share(torch.tensor(kl), 1e-3)) for kl in (0.0, 1e-3, 4e-3)] == pytest.approx([1.0, 1.0, 0.5])
    assert float(step_share(torch.tensor(9.0), None)) == 1.0
    free = with_steps(replace(STREAM, anchor=0.0, gate=None), Steps(1, SGD(3.0)))

    def went(step_kl: float | None) -> float:
        settings = replace(free, step_kl=step_kl, answer_after=False)
        method = stream_method(settings, "x")
        batch = batch_of(policy, method, 4)
        _, state = method(policy, batch, {})
        # the same images again: what stands in the answer is the model after the step
        still = with_steps(replace(settings, grpo=replace(settings.grpo, predict=StreamEnsemble(prior=0.0))), Steps(0))
        before, after = (stream_method(still, "x")(policy, batch, each)[0].after for each in ({}, state))
        return float(kl_divergence(before, after).mean().detach())

    assert went(None) > 4e-4
    assert went(1e-5) < 1e-4


def test_views_beyond_the_first_vote_and_carry_no_gradient(policy: Policy) -> None:
    """The group and its rewards come from all views; the step is taken on the first ones."""
    settings = with_steps(replace(STREAM, gradient_views=1), Steps(1, SGD(3.0)))
    method = stream_method(settings, "x")
    batch = batch_of(policy, method, 4)
    other = replace(batch, views=torch.cat([batch.views[:, :3], batch.views[:, 4:]], dim=1))
    states = [method(policy, each, {})[1] for each in (batch, other)]
    name = "params.blocks.0.ln_1.weight"
    assert (states[0][name] - states[1][name]).abs().max() > 1e-6, "the fourth view has no part in the rewards"
    alone = first_views(reference_pass(policy, batch.encoded.first(4, 0), SMALL), settings)
    assert alone.log_probs.shape[1] == alone.view_mask.shape[1] == 1
    torch.testing.assert_close(alone.weights, torch.ones(4, 1))
    more = stream_method(replace(settings, gradient_views=5), "x")(policy, batch, {})[0]
    torch.testing.assert_close(more.after, stream_method(replace(settings, gradient_views=4), "x")(policy, batch, {})[0].after)


def test_the_clip_acts_on_the_second_step(policy: Policy) -> None:
    def answers(count: int, clip: float) -> torch.Tensor:
        return answers_of(policy, with_steps(STREAM, Steps(count, SGD(3.0), clip=clip)), 4)

    torch.testing.assert_close(answers(1, 1e-3), answers(1, 1e3))
    assert (answers(2, 1e-3) - answers(2, 1e3)).abs().max() > 1e-3


def test_the_kl_is_measured_from_the_frozen_model(policy: Policy) -> None:
    """After a first minibatch the model has moved, so the very first step of the second already has a KL to lower."""

    def distance(kl: float) -> float:
        free = with_steps(replace(STREAM, gradient_views=4), Steps(1, SGD(3.0)))
        bound = with_steps(replace(free, anchor=0.0, gate=None), Steps(1, SGD(0.1), kl=kl))
        method = stream_method(free, "x")
        _, state = method(policy, batch_of(policy, method, 4), {})
        batch = batch_of(policy, method, 4, start=4)
        after = stream_method(replace(bound, grpo=replace(bound.grpo, predict=StreamEnsemble(prior=0.0))), "x")
        return float(kl_divergence(after(policy, batch, state)[0].after, log_mean_probs(batch.encoded.log_probs[:, :4])).mean())

    assert distance(1e2) < 0.9 * distance(0.0)


def test_the_records_say_how_far_the_model_went(policy: Policy) -> None:
    method = stream_method(replace(STREAM, answer_after=False), "x")
    adaptation, _ = method(policy, batch_of(policy, method, 8), {})
    assert adaptation.trace is not None
    columns = adaptation.trace.columns()
    assert columns["kl"][:4] == pytest.approx([0.0] * 4, abs=1e-6)
    assert all(kl > 1e-9 for kl in columns["kl"][4:])
    assert columns["clipped"] == [0.0] * 8, "the first step has a ratio of one"


def test_costs_of_the_stream(policy: Policy) -> None:
    def cost(settings: StreamSettings) -> tuple[float, float]:
        method = stream_method(settings, "x")
        batch = batch_of(policy, method, 4)
        views = batch.views.repeat(1, 2, 1, 1, 1)
        return method(policy, replace(batch, views=views), {})[0].cost.of(0)

    # the frozen model reads view 0 and 2 coarse views; the current one 10 views, 3 of them with a gradient, and view 0 again
    assert cost(ONLINE) == (1 + 2 + 10 + 1, 3)
    assert cost(ONLINE)[0] + 2 * cost(ONLINE)[1] <= 20, "a backward pass counts as two"
    assert cost(replace(ONLINE, step_kl=None)) == (1 + 2 + 10, 3)
    assert cost(BATCH) == (1 + 2 + 10 + 1 + 10, 3)
    assert cost(replace(ONLINE, gate=None)) == (1 + 10 + 1, 3)
    assert cost(with_steps(ONLINE, Steps(3))) == (1 + 2 + 10 + 2 * 3 + 1, 9)
    assert cost(with_steps(ONLINE, Steps(0))) == (1 + 2 + 10, 0)
    assert cost(with_steps(ONLINE, Steps(1, kl=0.1))) == (3 + 2 + 10 + 1, 3), "the KL is of the views with a gradient"


def test_a_stream_reads_few_views_with_the_frozen_model(policy: Policy, image) -> None:
    alone = encode_for([stream_method(ONLINE, "x")], policy, [image], ["a"], ONLINE.grpo.views, 0)
    assert (alone.views.shape[1], alone.encoded.views) == (10, 1)
    assert not alone.encoded.tokens
    beside = encode_for([stream_method(ONLINE, "x"), zero_method(ZeroSettings(16))], policy, [image], ["a"], ViewSettings(), 0)
    assert beside.encoded.views == beside.views.shape[1] > 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "batch", "answer_after": False}, "learns for nothing"),
        ({"update_size": 0}, "update_size"),
        ({"gradient_views": 0}, "gradient_views"),
        ({"anchor": 2.0}, "anchor"),
        ({"pseudo_images": 0.0}, "pseudo"),
        ({"max_kl": 0.0}, "max_kl"),
        ({"step_kl": 0.0}, "step_kl"),
        ({"max_rise": 0.0}, "max_rise"),
        ({"protocol": "episodic"}, "choose batch or online"),
        ({"grpo": replace(SMALL, weighting=MostConfident(2))}, "All views of a stream count"),
        ({"grpo": replace(SMALL, steps=Steps(max_kl=0.1))}, "max_kl"),
    ],
)
def test_bad_settings_name_the_remedy(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(STREAM, **changes)
