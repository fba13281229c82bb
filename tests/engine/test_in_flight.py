"""How many images fit, with hand numbers; and what one view of a model takes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo_tta import GRPOTTA, GRPOSettings, UserError
from grpo_tta.baselines.registry import choose_methods
from grpo_tta.engine import in_flight
from grpo_tta.engine.in_flight import Need, choose_batch, images_in_flight, measure_need
from grpo_tta.engine.parameters import NormAffine
from grpo_tta.engine.policy import Policy
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.grpo import grpo_method


def shares(free: int) -> int:
    """Free bytes of which `free` may be used."""
    return -(-10 * free // 7)


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (0, 1),  # one image is always tried
        (2 * (10 * 4 + 100) - 1, 1),
        (2 * (10 * 4 + 100), 2),  # a frozen pass over 20 views is the peak: 80, and 200 are stored
        (3 * 140, 3),
        (26 * 100 + 256 * 4 - 1, 25),
        (26 * 100 + 256 * 4, 26),  # from here on a pass has 256 views
        (30 * 100 + 30 * 37 - 1, 29),
        (30 * 100 + 30 * 37, 30),  # the step of 30 images takes more than a pass: 1,110 against 1,024
        (10**9, 32),
    ],
)
def test_as_many_as_fit(free: int, expected: int) -> None:
    assert images_in_flight(Need(views=10, view=4, step=37, stored=100), shares(free), 32) == expected


@given(st.tuples(*[st.integers(1, 10**6)] * 4), st.integers(0, 10**9), st.integers(1, 64))
def test_more_memory_is_never_fewer_images(need: tuple[int, int, int, int], free: int, most: int) -> None:
    found = images_in_flight(Need(*need), free, most)
    assert 1 <= found <= images_in_flight(Need(*need), 2 * free, most) <= most


@pytest.fixture(scope="module")
def policy() -> Policy:
    return GRPOTTA("nano-clip", ["star", "heart", "arrow"], device="cpu").policy


def need(policy: Policy, **changes: object) -> Need:
    return measure_need(policy, [grpo_method(GRPOSettings(**changes))])  # type: ignore[arg-type]


def test_the_need_of_nano_clip_worked_out_by_hand(policy: Policy) -> None:
    found = need(policy, views=ViewSettings(views=5, content_free=2), tune=NormAffine(last_blocks=0))
    pixels, width, tokens, classes = 3 * 48 * 48, 128, 37, 3
    assert found.views == 7
    # views and the class token that the head reads, three times each, and sixteen tensors of the classes, in float32
    assert found.stored == 7 * 4 * (3 * (pixels + width) + 16 * classes)
    assert 4 * (pixels + 5 * tokens * width) <= found.view <= 2 * 4 * (pixels + 5 * tokens * width)  # an MLP's in- and inside


def test_more_tuned_blocks_and_views_need_more(policy: Policy) -> None:
    last, all_of_it = need(policy, tune=NormAffine(last_blocks=1)), need(policy, tune=NormAffine(last_blocks=6))
    assert all_of_it.step > 4 * last.step
    assert last.view < all_of_it.view < 1.2 * last.view  # the kept tokens are alive during the pass
    half = need(policy, views=ViewSettings(views=12, content_free=2), tune=NormAffine(last_blocks=1))
    assert 2 * half.step == last.step
    assert 2 * half.stored == last.stored


def test_the_most_demanding_method_counts(policy: Policy) -> None:
    methods = choose_methods(["zero-shot", "grpo-tta"])
    assert measure_need(policy, methods) == measure_need(policy, methods[::-1]) == measure_need(policy, methods[1:])
    alone = measure_need(policy, methods[:1])
    assert (alone.views, alone.step) == (1, 0)


def test_the_device_and_its_free_memory_decide(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    method = grpo_method(GRPOSettings())
    found = measure_need(policy, [method])
    for free, expected in ((None, 4), (10**12, 4), (0, 1), (shares(3 * (28 * found.view + found.stored)), 3)):
        monkeypatch.setattr(in_flight, "free_memory", lambda device, free=free: free)
        assert choose_batch(policy, [method]) == expected
    monkeypatch.setattr(in_flight, "free_memory", lambda device: shares(4 * (28 * found.view + found.stored)))
    assert [choose_batch(policy, [method], processes=n) for n in (1, 2)] == [4, 2]


def test_the_public_object_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def watched(policy: Policy, methods: Sequence[object]) -> int:
        assert [m.name for m in methods] == ["grpo-tta"]  # type: ignore[attr-defined]
        seen.append(policy.classes)
        return 3

    monkeypatch.setattr("grpo_tta.classifier.choose_batch", watched)
    classifier = GRPOTTA("nano-clip", ["star", "heart"], device="cpu", batch="auto")
    assert (classifier.batch, seen) == (3, [2])
    assert GRPOTTA("nano-clip", ["star", "heart"], device="cpu").batch == 16
    assert classifier.with_labels(["cat", "dog"]).batch == 3
    for batch in (0, "many"):
        with pytest.raises(UserError, match="at least 1, or to auto"):
            GRPOTTA("nano-clip", ["star", "heart"], batch=batch)  # type: ignore[arg-type]


def test_measuring_leaves_no_trace(policy: Policy) -> None:
    before = [p.clone() for p in policy.backbone.parameters()]
    need(policy)
    assert all(torch.equal(p, q) and p.grad is None for p, q in zip(policy.backbone.parameters(), before, strict=True))
