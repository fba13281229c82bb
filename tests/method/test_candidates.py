from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo_tta.errors import UserError
from grpo_tta.images.seeds import ImageNoise
from grpo_tta.method.candidates import propose, share

LOG_PROBS = torch.tensor([[[0.1, 0.5, 0.15, 0.25]]]).log()


def test_top_k_is_the_most_probable() -> None:
    group = propose(LOG_PROBS, 2)
    assert group.classes.tolist() == [[[1, 3]]]
    torch.testing.assert_close(group.old_log_probs.exp(), torch.tensor([[[0.5, 0.25]]]))
    assert group.mask.all()


def test_nucleus_is_the_smallest_set_that_holds_the_mass() -> None:
    # 0.5 + 0.25 = 0.75 >= 0.7, so the third candidate only fills up
    assert propose(LOG_PROBS, 3, "nucleus", mass=0.7).mask.tolist() == [[[True, True, False]]]
    assert propose(LOG_PROBS, 3, "nucleus", mass=0.76).mask.tolist() == [[[True, True, True]]]
    assert propose(LOG_PROBS, 3, "nucleus", mass=0.01).mask.tolist() == [[[True, False, False]]]


def test_sample_adds_the_noise() -> None:
    noise = torch.tensor([[[10.0, 0.0, 5.0, 0.0]]])
    assert propose(LOG_PROBS, 2, "sample", gumbel=noise).classes.tolist() == [[[0, 2]]]


def test_sampling_follows_the_policy() -> None:
    """The first pick of Gumbel top-K is a draw from pi_old: 4,000 images, shares within 3 standard errors."""
    noise = ImageNoise(0, tuple(f"image-{i}" for i in range(4000))).gumbel(1, 4)
    first = propose(LOG_PROBS.expand(4000, 1, 4), 3, "sample", gumbel=noise).classes[:, 0, 0]
    shares = torch.bincount(first, minlength=4) / 4000
    expected = LOG_PROBS[0, 0].exp()
    assert ((shares - expected).abs() < 3 * (expected * (1 - expected) / 4000).sqrt()).all()


@given(st.integers(0, 3), st.integers(1, 6))
def test_noise_depends_on_the_image_alone(seed: int, others: int) -> None:
    names = [f"x{i}" for i in range(others)]
    alone = ImageNoise(seed, ("mine",)).gumbel(2, 3)
    together = ImageNoise(seed, (*names, "mine")).gumbel(2, 3)
    assert torch.equal(alone[0], together[-1])


def test_bad_groups_are_refused() -> None:
    with pytest.raises(UserError, match="5 candidates cannot be taken from 4 classes"):
        propose(LOG_PROBS, 5)
    with pytest.raises(UserError, match="top_k, sample, nucleus"):
        propose(LOG_PROBS, 2, "best")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="mass"):
        propose(LOG_PROBS, 2, "nucleus", mass=1.5)
    with pytest.raises(ValueError, match="Gumbel"):
        propose(LOG_PROBS, 2, "sample")


def test_a_shared_group_keeps_each_views_own_probabilities() -> None:
    views = torch.tensor([[[0.1, 0.5, 0.15, 0.25], [0.7, 0.1, 0.1, 0.1]]]).log()
    group = share(propose(LOG_PROBS, 2), views)
    assert group.classes.tolist() == [[[1, 3], [1, 3]]]
    torch.testing.assert_close(group.old_log_probs.exp(), torch.tensor([[[0.5, 0.25], [0.1, 0.1]]]))
