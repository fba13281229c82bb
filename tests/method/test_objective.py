"""Literal numbers, worked out by hand, for every function of `objective`."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from grpo_tta.method import objective

LOG2 = math.log(2)


def row(*values: float) -> Tensor:
    """One group of one view of one image."""
    return torch.tensor([[values]], dtype=torch.float64)


def real(n: int, k: int | None = None) -> Tensor:
    return torch.tensor([[[i < n for i in range(k or n)]]])


def test_entropy_of_known_distributions() -> None:
    log_probs = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.5, 0.25, 0.25]], dtype=torch.float64).log()
    torch.testing.assert_close(objective.entropy(log_probs), torch.tensor([LOG2, 0.0, 1.5 * LOG2], dtype=torch.float64))


def test_kl_by_hand() -> None:
    p, q = row(0.5, 0.5).log(), row(0.25, 0.75).log()
    torch.testing.assert_close(objective.kl_divergence(p, q), torch.tensor([[0.5 * math.log(4 / 3)]], dtype=torch.float64))
    torch.testing.assert_close(objective.kl_divergence(p, p), torch.zeros(1, 1, dtype=torch.float64))


def test_group_log_probs_renormalise() -> None:
    found = objective.group_log_probs(row(0.2, 0.1, 0.7).log(), real(2, 3)).exp()
    torch.testing.assert_close(found, row(2 / 3, 1 / 3, 0.0))


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("zscore", (1.2247448714, 0.0, -1.2247448714)),  # std of (3, 2, 1) as a population is sqrt(2/3)
        ("center", (1.0, 0.0, -1.0)),
        ("rank", (1.0, 0.0, -1.0)),
    ],
)
def test_advantages_by_hand(form: objective.AdvantageForm, expected: tuple[float, ...]) -> None:
    old = row(0.5, 0.3, 0.2).log()
    found = objective.advantages(row(3, 2, 1), old, real(3), form, eps=1e-12)
    torch.testing.assert_close(found, row(*expected))


def test_target_advantages_by_hand() -> None:
    # softmax((ln 4, 0) / 2) = (2/3, 1/3); pi_old in the group = (0.3, 0.1) / 0.4
    found = objective.advantages(row(math.log(4), 0), row(0.3, 0.1).log(), real(2), "target", temperature=2.0)
    torch.testing.assert_close(found, row(2 / 3 - 0.75, 1 / 3 - 0.25))


def test_ties_share_their_rank() -> None:
    found = objective.advantages(row(2, 2, 1), row(0.4, 0.3, 0.3).log(), real(3), "rank")
    torch.testing.assert_close(found, row(0.5, 0.5, -1.0))


@pytest.mark.parametrize("form", ["zscore", "center", "rank", "target"])
def test_equal_rewards_give_no_advantage(form: objective.AdvantageForm) -> None:
    found = objective.advantages(row(0.1, 0.1, 0.1, 9.0), row(0.5, 0.2, 0.2, 0.1).log(), real(3, 4), form)
    assert found.eq(0).all()


@pytest.mark.parametrize("form", ["zscore", "center", "rank", "target"])
def test_masked_candidates_do_not_count(form: objective.AdvantageForm) -> None:
    old = row(0.5, 0.3, 0.2).log()
    full = objective.advantages(row(3, 1), old[..., :2], real(2), form)
    masked = objective.advantages(row(3, 1, 77), old, real(2, 3), form)
    torch.testing.assert_close(masked[..., :2], full)
    assert masked[..., 2] == 0


def test_unknown_forms_are_refused() -> None:
    with pytest.raises(ValueError, match="choose zscore"):
        objective.advantages(row(1, 2), row(0.5, 0.5).log(), real(2), "best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="positive"):
        objective.advantages(row(1, 2), row(0.5, 0.5).log(), real(2), "target", temperature=0)
    with pytest.raises(ValueError, match="uniform or policy"):
        objective.candidate_weights(row(0.5, 0.5).log(), real(2), "all")  # type: ignore[arg-type]


def test_candidate_weights_by_hand() -> None:
    old = row(0.3, 0.1, 0.6).log()
    torch.testing.assert_close(objective.candidate_weights(old, real(2, 3), "uniform"), row(0.5, 0.5, 0.0))
    torch.testing.assert_close(objective.candidate_weights(old, real(2, 3), "policy"), row(0.75, 0.25, 0.0))


def test_clipped_objective_by_hand() -> None:
    # ratios 2, 2, 0.5, 0.5 against advantages +1, -1, +1, -1, clip 0.2
    old = row(0.1, 0.1, 0.1, 0.1).log()
    new = row(0.2, 0.2, 0.05, 0.05).log()
    weights = row(0.25, 0.25, 0.25, 0.25)
    surrogate, clipped = objective.clipped_objective(new, old, row(1, -1, 1, -1), weights, 0.2)
    # min(2, 1.2) + min(-2, -1.2) + min(0.5, 0.8) + min(-0.5, -0.8) = 1.2 - 2 + 0.5 - 0.8
    torch.testing.assert_close(surrogate, torch.tensor([[-1.1 / 4]], dtype=torch.float64))
    torch.testing.assert_close(clipped, torch.tensor([[0.5]], dtype=torch.float64))


def test_clip_cuts_the_gradient() -> None:
    new = row(0.2, 0.05).log().requires_grad_()
    surrogate, _ = objective.clipped_objective(new, row(0.1, 0.1).log(), row(1, 1), row(0.5, 0.5), 0.2)
    surrogate.sum().backward()
    torch.testing.assert_close(new.grad, row(0.0, 0.25))  # 0.5 * ratio 0.5 * A 1 where the clip does not act


def test_first_step_gradient_is_advantage_over_k() -> None:
    """Uniform weights, zero-sum advantages, S = 1: d objective / d logits of the group is exactly A / K."""
    logits = torch.tensor([[[1.3, 0.2, -0.4, 0.9, -2.0]]], dtype=torch.float64, requires_grad=True)
    log_probs = logits.log_softmax(-1)
    classes = torch.tensor([[[0, 3, 1]]])
    new = log_probs.gather(-1, classes)
    a = objective.advantages(row(0.3, 2.0, -1.0), new.detach(), real(3), "zscore")
    weights = objective.candidate_weights(new.detach(), real(3), "uniform")
    surrogate, _ = objective.clipped_objective(new, new.detach(), a, weights, 0.2)
    surrogate.sum().backward()
    expected = torch.zeros(1, 1, 5, dtype=torch.float64).scatter(-1, classes, a / 3)
    torch.testing.assert_close(logits.grad, expected)


def test_first_step_of_target_is_distillation() -> None:
    """Uniform weights times K: the gradient of `target` is that of cross-entropy towards softmax(r / tau) in the group."""
    logits = torch.tensor([[[1.3, 0.2, -0.4]]], dtype=torch.float64, requires_grad=True)
    new, mask = logits.log_softmax(-1), real(3)
    rewards = row(0.3, 2.0, -1.0)
    a = objective.advantages(rewards, new.detach(), mask, "target", temperature=0.7)
    surrogate, _ = objective.clipped_objective(new, new.detach(), a, objective.candidate_weights(new, mask, "uniform"), 0.2)
    (by_policy,) = torch.autograd.grad(3 * surrogate.sum(), logits, retain_graph=True)
    (by_distillation,) = torch.autograd.grad(((rewards / 0.7).softmax(-1) * new).sum(), logits)
    torch.testing.assert_close(by_policy, by_distillation)


groups = arrays("float64", (1, 2, 4), elements=st.integers(-320, 320).map(lambda n: n / 16))


@given(groups, groups, st.sampled_from(["zscore", "center", "rank", "target"]))
def test_advantages_sum_to_zero_and_ignore_a_constant(rewards, logits, form) -> None:  # type: ignore[no-untyped-def]
    r, old, mask = torch.from_numpy(rewards), torch.from_numpy(logits).log_softmax(-1), torch.ones(1, 2, 4, dtype=torch.bool)
    a = objective.advantages(r, old, mask, form)
    assert a.isfinite().all()
    torch.testing.assert_close(a.sum(-1), torch.zeros(1, 2, dtype=torch.float64), atol=1e-6, rtol=0)
    shifted = objective.advantages(r + 8.0, old, mask, form)
    spread = r.amax(-1) - r.amin(-1)
    if bool((spread > 1e-3).all()):
        torch.testing.assert_close(shifted, a, atol=1e-5, rtol=1e-4)


@given(groups, groups)
def test_kl_is_never_negative(first, second) -> None:  # type: ignore[no-untyped-def]
    p, q = torch.from_numpy(first).log_softmax(-1), torch.from_numpy(second).log_softmax(-1)
    assert (objective.kl_divergence(p, q) > -1e-9).all()
