"""Views in rounds: the rule by hand, and an episode that reads n views is the plain episode of n views."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from grpo_tta import GRPOTTA
from grpo_tta.baselines.registry import grpo_method
from grpo_tta.engine.batches import make_batch, prepare
from grpo_tta.engine.early_exit import Stop, round_ends, views_read
from grpo_tta.engine.encode import observe_images
from grpo_tta.engine.interface import look
from grpo_tta.engine.parameters import make_plan
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.controls import reward_argmax_method
from grpo_tta.method.grpo import adapt
from grpo_tta.method.online import StreamSettings
from grpo_tta.method.settings import DEFAULT, FAST, GRPOSettings

V, P = 6, 2
NAMES = [f"image-{i}" for i in range(8)]
OF_ALL = ViewSettings(views=V, content_free=P, patch_grid=4)
IN_ROUNDS = GRPOSettings(views=OF_ALL, selected=V, stop=0.7, learning_rate=0.5, kl_weight=0.3)


def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize((40, 40), 1 + n % 3) for n in range(8)]


def say(*probabilities: float) -> Tensor:
    """Log-probabilities of views of two classes, from that of the first one."""
    first = torch.tensor(probabilities).clamp(1e-12, 1 - 1e-12)
    return torch.stack([first, 1 - first], -1).log()


@pytest.mark.parametrize(("views", "ends"), [(1, [1]), (3, [3]), (6, [3, 5, 6]), (7, [3, 5, 7]), (24, [3, 5, 7, 14, 24])])
def test_rounds_grow(views: int, ends: list[int]) -> None:
    assert round_ends(views) == ends


def test_the_rule_by_hand() -> None:
    """Of twelve sure views three that agree lead by 1 and need share * 9 / 3, two of three lead by 1/3, four of five by 3/5 and
    need share * 7 / 5, five of seven by 3/7 and need share * 5 / 7."""
    both = torch.stack([say(*[1] * 3, *[0] * 9), say(1, 0, 1, 1, 1, 0, 1, *[0] * 5)])
    assert views_read(both, Stop(1 / 3 - 1e-3, 0, 1)).tolist() == [3, 5]
    assert views_read(both, Stop(3 / 7 - 1e-3, 0, 1)).tolist() == [12, 5]
    assert views_read(both, Stop(3 / 7 + 1e-3, 0, 1)).tolist() == [12, 7]
    assert views_read(both, Stop(3 / 5 + 1e-3, 0, 1)).tolist() == [12, 12]
    assert views_read(both, Stop(1 / 9 + 1e-3, 0, 1)).tolist() == [3, 5]
    assert views_read(both, Stop(1 / 9 - 1e-3, 0, 1)).tolist() == [3, 3]


def test_unsure_views_weigh_less() -> None:
    """One sure view against two torn between both classes: a lead of 1 / (1 + 1/2 + 1/2), where alike they lead by 1/3."""
    torn = say(1, *[0.5] * 5)[None]
    assert views_read(torn, Stop(0.4, 0, 1)).tolist() == [3]
    assert views_read(torn, Stop(0.4, 0, 0)).tolist() == [5]


def test_a_image_that_the_model_is_at_a_loss_about_gets_seven_views() -> None:
    lost = torch.zeros(1, 24, 100).log_softmax(-1)  # weighs 1 / 100
    assert views_read(lost, Stop(1, 0.011, 1)).tolist() == [7]
    assert views_read(lost, Stop(1, 0.009, 1)).tolist() == [24]
    assert views_read(lost[:, :4], Stop(1, 0.5, 1)).tolist() == [4]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0, 1))
def test_what_was_not_read_is_not_looked_at(seed: int, views: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    log_probs = (4 * torch.randn(5, views, 3, generator=generator)).log_softmax(-1)
    stop = Stop(share, 0.2, 1.0)
    counts = views_read(log_probs, stop)
    other = (4 * torch.randn(5, views, 3, generator=generator)).log_softmax(-1)
    unread = torch.arange(views) >= counts[:, None]
    assert torch.equal(views_read(torch.where(unread[..., None], other, log_probs), stop), counts)
    assert set(counts.tolist()) <= set(round_ends(views))


@pytest.mark.parametrize("which", [range(6), range(2), range(2, 5), range(5, 6)])
def test_views_made_in_parts_are_the_same_views(policy: Policy, which: range) -> None:
    views, copies = make_batch(policy.backbone, images(), NAMES, OF_ALL, 0)
    prepared = prepare(policy.backbone, images(), NAMES, OF_ALL, 0)
    assert torch.equal(torch.stack([image.views(which) for image in prepared]), views[:, which.start : which.stop])
    assert torch.equal(torch.stack([image.content_free() for image in prepared]), copies)


def test_in_rounds_as_from_all_views_and_nothing_read_in_vain(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(policy.backbone, "norm", 1)
    whole = policy.observe(*make_batch(policy.backbone, images(), NAMES, IN_ROUNDS.views, 0), [plan.first_block])
    assert IN_ROUNDS.stopping is not None
    counts = views_read(whole.log_probs[:, :V], IN_ROUNDS.stopping)
    assert len(set(counts.tolist())) > 1, "the images must differ for this test to mean something"
    passed = 0
    stem = policy.backbone.stem

    def counting(pixels: Tensor) -> Tensor:
        nonlocal passed
        passed += len(pixels)
        return stem(pixels)

    monkeypatch.setattr(policy.backbone, "stem", counting)
    views, copies, seen = observe_images(policy, images(), NAMES, IN_ROUNDS.views, 0, [plan.first_block], IN_ROUNDS.stopping)
    assert passed == int(counts.sum()) + P * len(NAMES)
    assert (views.shape[1], copies.shape[1], seen.views) == (V, P, V)
    read = torch.cat([torch.arange(V) < counts[:, None], torch.ones(len(NAMES), P, dtype=torch.bool)], 1)
    torch.testing.assert_close(seen.log_probs[read], whole.log_probs[read], atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.features[read], whole.features[read], atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.tokens[plan.first_block][read], whole.tokens[plan.first_block][read], atol=1e-4, rtol=0)
    unread = ~read[:, :V]
    assert torch.equal(views[unread], views[:, :1].expand(-1, V, -1, -1, -1)[unread])
    after = [adapt(policy, s, IN_ROUNDS, image_ids=NAMES).after for s in (seen, whole)]
    torch.testing.assert_close(after[0], after[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("last_blocks", [0, 2])
def test_an_episode_of_n_views_is_the_plain_one(policy: Policy, last_blocks: int) -> None:
    changed = replace(IN_ROUNDS, last_blocks=last_blocks, steps=2)
    plan = make_plan(policy.backbone, "norm", last_blocks)
    whole = policy.observe(*make_batch(policy.backbone, images(), NAMES, changed.views, 0), [plan.first_block])
    assert changed.stopping is not None
    counts = views_read(whole.log_probs[:, :V], changed.stopping).tolist()
    found = adapt(policy, whole, changed, image_ids=NAMES)
    assert found.episode is not None
    for b, n in enumerate(counts):
        plain = replace(changed, views=replace(changed.views, views=n), selected=n, stop=None)
        views, copies = make_batch(policy.backbone, images()[b : b + 1], NAMES[b : b + 1], plain.views, 0)
        alone = adapt(policy, policy.observe(views, copies, [plan.first_block]), plain, image_ids=NAMES[b : b + 1])
        torch.testing.assert_close(found.after[b], alone.after[0], atol=1e-4, rtol=0)
        assert found.cost.of(b) == pytest.approx(alone.cost.of(0))
        assert alone.episode is not None
        for told in ("objective", "kl", "clipped", "gradient_norm"):
            of_found, of_alone = (getattr(e.steps[-1], told) for e in (found.episode, alone.episode))
            torch.testing.assert_close(of_found[b], of_alone[0], atol=1e-4, rtol=1e-3)
        assert bool(found.episode.proposal.stepped[b]) == bool(alone.episode.proposal.stepped[0])
        torch.testing.assert_close(found.episode.proposal.rewards[b, :n], alone.episode.proposal.rewards[0], atol=1e-4, rtol=0)


def test_explain_tells_of_the_views_that_were_read(policy: Policy) -> None:
    classifier = GRPOTTA("nano-clip", ["star", "heart", "arrow"], settings="fast")
    image = Image.new("RGB", (64, 64), "navy")
    told, answer = classifier.explain(image), classifier.predict(image)
    assert len(told.views) == answer.forwards
    assert answer.forwards in round_ends(24)
    assert answer.backwards == 0


def test_a_method_alone_reads_no_more_than_it_needs(policy: Policy) -> None:
    method = grpo_method(IN_ROUNDS)
    alone = look(policy, images(), tuple(NAMES), ViewSettings(patch_grid=4), 0, method)
    every = look(policy, images(), tuple(NAMES), ViewSettings(patch_grid=4), 0, grpo_method(replace(IN_ROUNDS, stop=None)))
    repeated = [bool((x.views[:, 1:] == x.views[:, :1]).all((2, 3, 4)).any()) for x in (alone, every)]
    assert repeated == [True, False]
    shared = method(policy, every, {})[0]
    torch.testing.assert_close(method(policy, alone, {})[0].after, shared.after, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"stop": 1.5}, "share between 0 and 1"),
        ({"stop_doubt": -1.0}, "weight between 0 and 1"),
        ({"selected": 3}, "all of them may vote"),
        ({"prediction": "view"}, "all of them may vote"),
        ({"max_kl": 0.1}, "all of them may vote"),
    ],
)
def test_what_does_not_go_with_rounds_is_refused(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        replace(FAST, **wrong)  # type: ignore[arg-type]


def test_streams_read_all_views() -> None:
    with pytest.raises(UserError, match="reads all views"):
        StreamSettings(grpo=replace(DEFAULT, stop=0.1))


def test_the_control_reads_what_the_episode_reads(policy: Policy) -> None:
    """Without a step both read the same views in the same way."""
    no_step = replace(IN_ROUNDS, steps=0, prior_weight=0.05)
    every = look(policy, images(), tuple(NAMES), OF_ALL, 0, grpo_method(replace(no_step, stop=None)))
    control = reward_argmax_method(no_step)(policy, every, {})[0]
    episode = grpo_method(no_step)(policy, every, {})[0]
    torch.testing.assert_close(control.after, episode.after, atol=1e-4, rtol=0)
    counts = views_read(every.seen.log_probs[:, :V], no_step.stopping)  # type: ignore[arg-type]
    assert [control.cost.of(b)[0] for b in range(8)] == (counts + P).tolist()
