"""Literal numbers, worked out by hand, for advantages and the clipped objective."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from grpo_tta.errors import UserError
from grpo_tta.images.seeds import ImageNoise
from grpo_tta.method.grpo import score_candidates
from grpo_tta.method.objective import Centred, Target, ZScore, clipped_objective, group_log_probs, rewards_differ
from grpo_tta.method.settings import GRPOSettings
from grpo_tta.method.types import AdvantageForm, CandidateGroup
from tests.method.references import reference_of

FORMS = (ZScore(), Centred(), Target())


def row(*values: float) -> Tensor:
    """One group of one view of one image."""
    return torch.tensor([[values]], dtype=torch.float64)


def group(old: Tensor, n: int | None = None) -> CandidateGroup:
    """Candidates with these log pi_old, of which the first n are real."""
    K = old.shape[-1]
    mask = torch.arange(K).expand(old.shape) < (K if n is None else n)
    return CandidateGroup(torch.arange(K).expand(old.shape), old, mask)


def test_group_log_probs_renormalise() -> None:
    found = group_log_probs(group(row(0.2, 0.1, 0.7).log(), 2)).exp()
    torch.testing.assert_close(found, row(2 / 3, 1 / 3, 0.0))


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (ZScore(eps=1e-12), (1.2247448714, 0.0, -1.2247448714)),  # std of (3, 2, 1) as a population is sqrt(2/3)
        (Centred(), (1.0, 0.0, -1.0)),
    ],
)
def test_advantages_by_hand(form: AdvantageForm, expected: tuple[float, ...]) -> None:
    torch.testing.assert_close(form(row(3, 2, 1), group(row(0.5, 0.3, 0.2).log())), row(*expected))


def test_target_advantages_by_hand() -> None:
    # softmax((ln 4, 0) / 2) = (2/3, 1/3); pi_old in the group = (0.3, 0.1) / 0.4
    found = Target(temperature=2.0)(row(math.log(4), 0), group(row(0.3, 0.1).log()))
    torch.testing.assert_close(found, row(2 / 3 - 0.75, 1 / 3 - 0.25))


@pytest.mark.parametrize("form", FORMS)
def test_equal_rewards_give_no_advantage(form: AdvantageForm) -> None:
    log_probs = torch.tensor([[[0.5, 0.2, 0.2, 0.1]]]).log()
    settings = GRPOSettings(advantage=form, reward=lambda reference, group: torch.full(group.classes.shape, 0.1))
    scored = score_candidates(reference_of(log_probs), settings, ImageNoise(0, ("x",)))
    assert scored.advantages.eq(0).all()
    assert not scored.update_mask.any()


def test_what_only_fills_up_a_group_is_no_difference() -> None:
    mask = torch.tensor([[[True, True, False]]])
    assert not rewards_differ(row(1, 1, 9), mask).any()
    assert rewards_differ(row(1, 2, 9), mask).all()


@pytest.mark.parametrize("form", FORMS)
def test_masked_candidates_do_not_count(form: AdvantageForm) -> None:
    old = row(0.5, 0.3, 0.2).log()
    full = form(row(3, 1), group(old[..., :2]))
    torch.testing.assert_close(form(row(3, 1, 77), group(old, 2))[..., :2], full)


def test_bad_forms_are_refused() -> None:
    with pytest.raises(UserError, match="temperature must be positive"):
        Target(0)
    with pytest.raises(UserError, match="eps must be positive"):
        ZScore(float("nan"))


def test_clipped_objective_by_hand() -> None:
    # ratios 2, 2, 0.5, 0.5 against advantages +1, -1, +1, -1, clip 0.2
    new = row(0.2, 0.2, 0.05, 0.05).log()
    surrogate, clipped = clipped_objective(new, group(row(0.1, 0.1, 0.1, 0.1).log()), row(1, -1, 1, -1), 0.2)
    # min(2, 1.2) + min(-2, -1.2) + min(0.5, 0.8) + min(-0.5, -0.8) = 1.2 - 2 + 0.5 - 0.8
    torch.testing.assert_close(surrogate, torch.tensor([[-1.1 / 4]], dtype=torch.float64))
    torch.testing.assert_close(clipped, torch.tensor([[0.5]], dtype=torch.float64))


def test_masked_candidates_are_no_part_of_the_mean() -> None:
    new = row(0.2, 0.9).log()
    surrogate, clipped = clipped_objective(new, group(row(0.1, 0.1).log(), 1), row(-1, 0), 0.2)
    torch.testing.assert_close(surrogate, torch.tensor([[-2.0]], dtype=torch.float64))
    torch.testing.assert_close(clipped, torch.tensor([[0.0]], dtype=torch.float64))


def test_clip_cuts_the_gradient() -> None:
    new = row(0.2, 0.05).log().requires_grad_()
    surrogate, _ = clipped_objective(new, group(row(0.1, 0.1).log()), row(1, 1), 0.2)
    surrogate.sum().backward()
    torch.testing.assert_close(new.grad, row(0.0, 0.25))  # 0.5 * ratio 0.5 * A 1 where the clip does not act


def test_first_step_gradient_is_advantage_over_k() -> None:
    """Zero-sum advantages, S = 1: d objective / d logits of the group is exactly A / K."""
    logits = torch.tensor([[[1.3, 0.2, -0.4, 0.9, -2.0]]], dtype=torch.float64, requires_grad=True)
    classes = torch.tensor([[[0, 3, 1]]])
    new = logits.log_softmax(-1).gather(-1, classes)
    candidates = group(new.detach())
    a = ZScore()(row(0.3, 2.0, -1.0), candidates)
    surrogate, _ = clipped_objective(new, candidates, a, 0.2)
    surrogate.sum().backward()
    expected = torch.zeros(1, 1, 5, dtype=torch.float64).scatter(-1, classes, a / 3)
    torch.testing.assert_close(logits.grad, expected)


def test_first_step_of_target_is_distillation() -> None:
    """Times K, the gradient of `Target` is that of cross-entropy towards softmax(r / tau) in the group."""
    logits = torch.tensor([[[1.3, 0.2, -0.4]]], dtype=torch.float64, requires_grad=True)
    new = logits.log_softmax(-1)
    rewards, candidates = row(0.3, 2.0, -1.0), group(new.detach())
    surrogate, _ = clipped_objective(new, candidates, Target(0.7)(rewards, candidates), 0.2)
    (by_policy,) = torch.autograd.grad(3 * surrogate.sum(), logits, retain_graph=True)
    (by_distillation,) = torch.autograd.grad(((rewards / 0.7).softmax(-1) * new).sum(), logits)
    torch.testing.assert_close(by_policy, by_distillation)


groups = arrays("float64", (1, 2, 4), elements=st.integers(-320, 320).map(lambda n: n / 16))


@given(groups, groups, st.sampled_from(FORMS))
def test_advantages_sum_to_zero_and_ignore_a_constant(rewards, logits, form) -> None:  # type: ignore[no-untyped-def]
    r, candidates = torch.from_numpy(rewards), group(torch.from_numpy(logits).log_softmax(-1))
    a = form(r, candidates)
    assert a.isfinite().all()
    torch.testing.assert_close(a.sum(-1), torch.zeros(1, 2, dtype=torch.float64), atol=1e-6, rtol=0)
    if bool((r.amax(-1) - r.amin(-1) > 1e-3).all()):
        torch.testing.assert_close(form(r + 8.0, candidates), a, atol=1e-5, rtol=1e-4)
