"""Literal numbers for means, entropies and divergences."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from grpo_tta.engine.distributions import (
    entropy,
    kl_divergence,
    log_mean_probs,
    mean_over_views,
    most_confident,
    take_views,
    weighted_log_mean,
)

LOG2 = math.log(2)
VIEWS = torch.tensor([[[0.7, 0.2, 0.1], [0.5, 0.1, 0.4]]], dtype=torch.float64).log()


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_entropy_of_known_distributions() -> None:
    log_probs = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.5, 0.25, 0.25]], dtype=torch.float64).log()
    torch.testing.assert_close(entropy(log_probs), double(LOG2, 0.0, 1.5 * LOG2))


def test_kl_by_hand() -> None:
    p, q = double(0.5, 0.5).log(), double(0.25, 0.75).log()
    torch.testing.assert_close(kl_divergence(p, q), torch.tensor(0.5 * math.log(4 / 3), dtype=torch.float64))
    torch.testing.assert_close(kl_divergence(p, p), torch.tensor(0.0, dtype=torch.float64))


def test_means_by_hand() -> None:
    torch.testing.assert_close(log_mean_probs(VIEWS).exp(), double(0.6, 0.15, 0.25)[None])
    expected = double(0.25 * 0.7 + 0.75 * 0.5, 0.25 * 0.2 + 0.75 * 0.1, 0.25 * 0.1 + 0.75 * 0.4)[None]
    torch.testing.assert_close(weighted_log_mean(VIEWS, double(0.25, 0.75)[None]).exp(), expected)


def test_a_view_that_was_not_read_is_in_no_mean() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    torch.testing.assert_close(mean_over_views(torch.tensor([[1.0, 9.0], [1.0, 9.0]]), mask), torch.tensor([1.0, 5.0]))
    per_class = torch.tensor([[[1.0, 2.0], [9.0, 9.0]], [[1.0, 2.0], [3.0, 4.0]]])
    torch.testing.assert_close(mean_over_views(per_class, mask), torch.tensor([[1.0, 2.0], [2.0, 3.0]]))
    torch.testing.assert_close(weighted_log_mean(VIEWS, double(1.0, 0.0)[None]), VIEWS[:, 0])


def test_selection_takes_the_surest_views() -> None:
    log_probs = torch.tensor([[[0.4, 0.6], [0.9, 0.1], [0.5, 0.5], [0.01, 0.99]]]).log()
    assert most_confident(log_probs, 2).tolist() == [[3, 1]]
    assert most_confident(log_probs, 4).tolist() == [[0, 1, 2, 3]]
    torch.testing.assert_close(take_views(log_probs, torch.tensor([[3, 1]])), log_probs[:, [3, 1]])


logits = arrays("float64", (1, 2, 4), elements=st.integers(-320, 320).map(lambda n: n / 16))


@given(logits, logits)
def test_kl_is_never_negative(first, second) -> None:  # type: ignore[no-untyped-def]
    p, q = torch.from_numpy(first).log_softmax(-1), torch.from_numpy(second).log_softmax(-1)
    assert (kl_divergence(p, q) > -1e-9).all()
