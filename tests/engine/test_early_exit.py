"""Views in rounds: the rule by hand, and an episode that reads n views is the plain episode of n views."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from grpo_tta import GRPOTTA
from grpo_tta.engine.early_exit import Rounds, round_ends
from grpo_tta.engine.encode import encode_for, encode_images, prepare_images
from grpo_tta.engine.interface import EncodedViews
from grpo_tta.engine.optim import SGD
from grpo_tta.engine.parameters import NormAffine
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.controls import reward_argmax_method
from grpo_tta.method.grpo import adapt, grpo_method
from grpo_tta.method.online_settings import StreamSettings
from grpo_tta.method.prediction import View0
from grpo_tta.method.settings import ALONG_A_STREAM, FAST, GRPOSettings, Steps
from grpo_tta.method.types import Episode
from grpo_tta.method.weighting import ByEntropy, MostConfident

V, P = 6, 2
NAMES = [f"image-{i}" for i in range(8)]
OF_ALL = ViewSettings(views=V, content_free=P, patch_grid=4)
RULE = Rounds(share=0.7)
IN_ROUNDS = GRPOSettings(views=OF_ALL, steps=Steps(1, SGD(0.5), kl=0.3), early_exit=RULE)


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
    assert Rounds(1 / 3 - 1e-3, 1).views_read(both).tolist() == [3, 5]
    assert Rounds(3 / 7 - 1e-3, 1).views_read(both).tolist() == [12, 5]
    assert Rounds(3 / 7 + 1e-3, 1).views_read(both).tolist() == [12, 7]
    assert Rounds(3 / 5 + 1e-3, 1).views_read(both).tolist() == [12, 12]
    assert Rounds(1 / 9 + 1e-3, 1).views_read(both).tolist() == [3, 5]
    assert Rounds(1 / 9 - 1e-3, 1).views_read(both).tolist() == [3, 3]


def test_unsure_views_weigh_less() -> None:
    """One sure view against two torn between both classes: a lead of 1 / (1 + 1/2 + 1/2), where alike they lead by 1/3."""
    torn = say(1, *[0.5] * 5)[None]
    assert Rounds(0.4, math.log(2)).views_read(torn).tolist() == [3]
    assert Rounds(0.4, 0).views_read(torn).tolist() == [5]


def test_other_labels_do_not_matter() -> None:
    """Half of every view's mass lies on labels that are not in question, few or many."""
    two = say(0.9, 0.1, 0.9, 0.9, 0.9, 0.5, 0.9, *[0.5] * 5)
    counts = Rounds(0.3, 0).views_read(two[None]).tolist()
    assert 3 < counts[0] < 12
    for others in (20, 1000):
        rest = torch.full((12, others), 1 / (2 * others)).log()
        long = torch.cat([two - math.log(2), rest], dim=-1)
        assert Rounds(0.3, 0).views_read(long[None]).tolist() == counts


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0, 1))
def test_what_was_not_read_is_not_looked_at(seed: int, views: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    log_probs = (4 * torch.randn(5, views, 3, generator=generator)).log_softmax(-1)
    rule = Rounds(share)
    counts = rule.views_read(log_probs)
    other = (4 * torch.randn(5, views, 3, generator=generator)).log_softmax(-1)
    unread = torch.arange(views) >= counts[:, None]
    assert torch.equal(rule.views_read(torch.where(unread[..., None], other, log_probs)), counts)
    assert set(counts.tolist()) <= set(round_ends(views))


def encoded_whole(policy: Policy, settings: GRPOSettings) -> EncodedViews:
    """All views of all images, whatever they need."""
    blocks = [settings.tune(policy.backbone).first_block]
    return encode_images(policy, images(), NAMES, settings.views, 0, cached_blocks=blocks).encoded


def trace(found: object) -> Episode:
    assert isinstance(found, Episode)
    return found


@pytest.mark.parametrize("which", [range(6), range(2), range(2, 5), range(5, 6)])
def test_views_made_in_parts_are_the_same_views(policy: Policy, which: range) -> None:
    batch = encode_images(policy, images(), NAMES, OF_ALL, 0)
    prepared = prepare_images(policy.backbone, images(), NAMES, OF_ALL, 0)
    assert torch.equal(prepared.views(which), batch.views[:, which.start : which.stop])
    assert torch.equal(prepared.content_free(), batch.content_free)


def test_in_rounds_as_from_all_views_and_nothing_read_in_vain(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    block = NormAffine(1)(policy.backbone).first_block
    whole = encoded_whole(policy, IN_ROUNDS)
    counts = RULE.views_read(whole.log_probs[:, :V])
    assert len(set(counts.tolist())) > 1, "the images must differ for this test to mean something"
    passed = 0
    stem = policy.backbone.stem

    def counting(pixels: Tensor) -> Tensor:
        nonlocal passed
        passed += len(pixels)
        return stem(pixels)

    monkeypatch.setattr(policy.backbone, "stem", counting)
    batch = encode_images(policy, images(), NAMES, IN_ROUNDS.views, 0, cached_blocks=[block], early_exit=RULE)
    encoded = batch.encoded
    assert passed == int(counts.sum()) + P * len(NAMES)
    assert (batch.views.shape[1], batch.content_free.shape[1], encoded.views) == (V, P, V)
    read = torch.cat([torch.arange(V) < counts[:, None], torch.ones(len(NAMES), P, dtype=torch.bool)], 1)
    torch.testing.assert_close(encoded.log_probs[read], whole.log_probs[read], atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded.features[read], whole.features[read], atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded.tokens[block][read], whole.tokens[block][read], atol=1e-4, rtol=0)
    unread = ~read[:, :V]
    assert torch.equal(batch.views[unread], batch.views[:, :1].expand(-1, V, -1, -1, -1)[unread])
    after = [adapt(policy, e, IN_ROUNDS, image_ids=NAMES).after for e in (encoded, whole)]
    torch.testing.assert_close(after[0], after[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("last_blocks", [0, 2])
def test_an_episode_of_n_views_is_the_plain_one(policy: Policy, last_blocks: int) -> None:
    changed = replace(IN_ROUNDS, tune=NormAffine(last_blocks), steps=Steps(2, SGD(0.5), kl=0.3))
    whole = encoded_whole(policy, changed)
    counts = RULE.views_read(whole.log_probs[:, :V]).tolist()
    found = adapt(policy, whole, changed, image_ids=NAMES)
    for b, n in enumerate(counts):
        plain = replace(changed, views=replace(changed.views, views=n), early_exit=None)
        only = encode_for([grpo_method(plain)], policy, images()[b : b + 1], NAMES[b : b + 1], plain.views, 0)
        alone = adapt(policy, only.encoded, plain, image_ids=NAMES[b : b + 1])
        torch.testing.assert_close(found.after[b], alone.after[0], atol=1e-4, rtol=0)
        assert found.cost.of(b) == pytest.approx(alone.cost.of(0))
        mine, its = trace(found.trace), trace(alone.trace)
        for statistic in ("objective", "kl", "clipped", "gradient_norm"):
            of_found, of_alone = (getattr(episode.steps[-1], statistic) for episode in (mine, its))
            torch.testing.assert_close(of_found[b], of_alone[0], atol=1e-4, rtol=1e-3)
        assert bool(mine.scored.update_mask[b]) == bool(its.scored.update_mask[0])
        torch.testing.assert_close(mine.scored.rewards[b, :n], its.scored.rewards[0], atol=1e-4, rtol=0)


def test_explain_speaks_of_the_views_that_were_read() -> None:
    classifier = GRPOTTA("nano-clip", ["star", "heart", "arrow"], settings="fast")
    image = Image.new("RGB", (64, 64), "navy")
    explained, answer = classifier.explain(image), classifier.predict(image)
    assert len(explained.views) == answer.forwards
    assert answer.forwards in round_ends(24)
    assert answer.backwards == 0


def test_a_method_alone_reads_no_more_than_it_needs(policy: Policy) -> None:
    method, other = grpo_method(IN_ROUNDS), grpo_method(replace(IN_ROUNDS, early_exit=None))
    alone, every = (encode_for([m], policy, images(), NAMES, ViewSettings(patch_grid=4), 0) for m in (method, other))
    repeated = [bool((x.views[:, 1:] == x.views[:, :1]).all((2, 3, 4)).any()) for x in (alone, every)]
    assert repeated == [True, False]
    shared = method(policy, every, {})[0]
    torch.testing.assert_close(method(policy, alone, {})[0].after, shared.after, atol=1e-4, rtol=0)
    together = encode_for([method, other], policy, images(), NAMES, ViewSettings(patch_grid=4), 0)
    torch.testing.assert_close(together.views, every.views)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rounds(share=1.5), "share is a share between 0 and 1"),
        (lambda: replace(FAST, weighting=MostConfident(3)), "all of them vote"),
        (lambda: replace(FAST, weighting=ByEntropy(2.0)), "all of them vote"),
        (lambda: replace(FAST, predict=View0()), "only with predict=Ensemble"),
        (lambda: replace(FAST, steps=Steps(max_kl=0.1)), "without max_kl"),
        (lambda: StreamSettings(grpo=replace(ALONG_A_STREAM, early_exit=Rounds())), "only with predict=Ensemble"),
        (lambda: StreamSettings(grpo=replace(FAST, views=ViewSettings())), "reads all views"),
    ],
)
def test_what_does_not_go_with_rounds_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_the_control_reads_what_the_episode_reads(policy: Policy) -> None:
    """Without a step both read the same views in the same way."""
    no_step = replace(IN_ROUNDS, steps=Steps(0))
    every = encode_for([grpo_method(replace(no_step, early_exit=None))], policy, images(), NAMES, OF_ALL, 0)
    control = reward_argmax_method(no_step)(policy, every, {})[0]
    episode = grpo_method(no_step)(policy, every, {})[0]
    torch.testing.assert_close(control.after, episode.after, atol=1e-4, rtol=0)
    counts = RULE.views_read(every.encoded.log_probs[:, :V])
    assert [control.cost.of(b)[0] for b in range(8)] == (counts + P).tolist()
