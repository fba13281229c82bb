from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from grpo_tta.errors import UserError
from grpo_tta.images.seeds import ImageNoise
from grpo_tta.method.candidates import Nucleus, Sample, TopK, every_class
from tests.method.references import reference_of

ENSEMBLE = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()
VIEWS = torch.tensor([[[0.1, 0.5, 0.15, 0.25], [0.7, 0.1, 0.1, 0.1]]]).log()
NOISE = ImageNoise(0, ("x",))
ONE_VIEW = reference_of(ENSEMBLE[:, None])


class Fixed:
    """Noise of one's own in place of an image's."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def gumbel(self, views: int, classes: int) -> Tensor:
        assert self.values.shape[1:] == (views, classes)
        return self.values


def test_top_k_is_the_most_probable() -> None:
    group = TopK(2)(ONE_VIEW, NOISE)
    assert group.classes.tolist() == [[[1, 3]]]
    torch.testing.assert_close(group.old_log_probs.exp(), torch.tensor([[[0.5, 0.25]]]))
    assert group.mask.all()


def test_fewer_classes_than_asked_for_are_all_of_them() -> None:
    for rule in (TopK(9), Sample(9), Nucleus(mass=1.0, at_most=9)):
        assert sorted(rule(ONE_VIEW, NOISE).classes[0, 0].tolist()) == [0, 1, 2, 3]


def test_nucleus_is_the_smallest_set_that_holds_the_mass() -> None:
    # 0.5 + 0.25 = 0.75 >= 0.7, so the third candidate only fills up
    assert Nucleus(0.7, at_most=3)(ONE_VIEW, NOISE).mask.tolist() == [[[True, True, False]]]
    assert Nucleus(0.76, at_most=3)(ONE_VIEW, NOISE).mask.tolist() == [[[True, True, True]]]
    assert Nucleus(0.01, at_most=3)(ONE_VIEW, NOISE).mask.tolist() == [[[True, False, False]]]


def test_sample_adds_the_noise() -> None:
    noise: Any = Fixed(torch.tensor([[[10.0, 0.0, 5.0, 0.0]]]))
    assert Sample(2)(ONE_VIEW, noise).classes.tolist() == [[[0, 2]]]


def test_sampling_follows_the_policy() -> None:
    """The first pick of Gumbel top-K is a draw from pi_old: 4,000 images, shares within 3 standard errors."""
    noise = ImageNoise(0, tuple(f"image-{i}" for i in range(4000)))
    first = Sample(3)(reference_of(ENSEMBLE.expand(4000, 1, 4)), noise).classes[:, 0, 0]
    shares = torch.bincount(first, minlength=4) / 4000
    expected = ENSEMBLE[0].exp()
    assert ((shares - expected).abs() < 3 * (expected * (1 - expected) / 4000).sqrt()).all()


@given(st.integers(0, 3), st.integers(1, 6))
def test_noise_depends_on_the_image_alone(seed: int, others: int) -> None:
    names = tuple(f"x{i}" for i in range(others))
    alone = ImageNoise(seed, ("mine",)).gumbel(2, 3)
    together = ImageNoise(seed, (*names, "mine")).gumbel(2, 3)
    assert torch.equal(alone[0], together[-1])


def test_bad_groups_are_refused() -> None:
    with pytest.raises(UserError, match="size must be at least 1"):
        TopK(0)
    with pytest.raises(UserError, match="mass is a share above 0"):
        Nucleus(mass=1.5)
    with pytest.raises(UserError, match="choose image or view"):
        Sample(per="batch")  # type: ignore[arg-type]


def test_a_shared_group_keeps_each_views_own_probabilities() -> None:
    # the ensemble of the two views, weighed alike, is 0.4, 0.3, 0.125, 0.175
    group = TopK(2)(reference_of(VIEWS), NOISE)
    assert group.classes.tolist() == [[[0, 1], [0, 1]]]
    torch.testing.assert_close(group.old_log_probs.exp(), torch.tensor([[[0.1, 0.5], [0.7, 0.1]]]))


def test_a_group_per_view_is_that_views_own() -> None:
    assert TopK(1, per="view")(reference_of(VIEWS), NOISE).classes.tolist() == [[[1], [0]]]


def test_every_class_is_a_group_too() -> None:
    group = every_class(reference_of(VIEWS))
    assert group.classes.tolist() == [[[0, 1, 2, 3]] * 2]
    torch.testing.assert_close(group.old_log_probs, VIEWS)
