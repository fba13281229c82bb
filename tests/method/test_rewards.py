"""Literal numbers for every reward, on one image with two views and three classes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from grpo_tta.errors import UserError
from grpo_tta.method import rewards
from grpo_tta.method.candidates import CandidateGroup

VIEWS = [[0.7, 0.2, 0.1], [0.5, 0.1, 0.4]]


def reference(**changes: Tensor | None) -> rewards.Reference:
    log_probs = torch.tensor([VIEWS], dtype=torch.float64).log()
    text = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], dtype=torch.float64)
    given = {
        "log_probs": log_probs,
        "weights": torch.full((1, 2), 0.5, dtype=torch.float64),
        "consensus": rewards.log_mean_probs(log_probs),
        "content_free": torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log(),
        "text_features": text,
        "stream": torch.tensor([[0.1, 0.1, 0.8]], dtype=torch.float64).log(),
    } | changes
    return rewards.Reference(**given)  # type: ignore[arg-type]


def group(classes: list[list[int]], mask: list[list[bool]] | None = None) -> CandidateGroup:
    index = torch.tensor([classes])
    real = torch.ones_like(index, dtype=torch.bool) if mask is None else torch.tensor([mask])
    return CandidateGroup(index, reference().log_probs.gather(-1, index), real)


TWO = group([[0, 1], [0, 2]])


def logs(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).log()


def test_log_mean_probs() -> None:
    torch.testing.assert_close(reference().consensus, logs(0.6, 0.15, 0.25)[None])


def test_alignment_view() -> None:
    torch.testing.assert_close(rewards.alignment_view(reference(), TWO), torch.stack([logs(0.7, 0.2), logs(0.5, 0.4)])[None])


def test_alignment_consensus() -> None:
    expected = torch.stack([logs(0.6, 0.15), logs(0.6, 0.25)])[None]
    torch.testing.assert_close(rewards.alignment_consensus(reference(), TWO), expected)


def test_content_free() -> None:
    expected = torch.full((1, 2, 2), math.log(2), dtype=torch.float64)
    expected[..., 1] = math.log(4)
    torch.testing.assert_close(rewards.dispersion_content_free(reference(), TWO), expected)


def test_stream() -> None:
    expected = -torch.stack([logs(0.1, 0.1), logs(0.1, 0.8)])[None]
    torch.testing.assert_close(rewards.dispersion_stream(reference(), TWO), expected)


def test_semantic() -> None:
    # cosines: t0 t1 = 0.6, t0 t2 = 0, t1 t2 = 0.8
    found = rewards.dispersion_semantic(reference(), group([[0, 1, 2], [2, 1, 0]]))
    expected = torch.tensor([[[1 - 0.3, 1 - 0.7, 1 - 0.4], [1 - 0.4, 1 - 0.7, 1 - 0.3]]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_semantic_of_one_candidate_is_zero() -> None:
    found = rewards.dispersion_semantic(reference(), group([[0, 1], [0, 1]], [[True, False], [True, True]]))
    torch.testing.assert_close(found[0, 0, 0], torch.tensor(0.0, dtype=torch.float64))
    torch.testing.assert_close(found[0, 1], torch.tensor([0.4, 0.4], dtype=torch.float64))


def test_combine_weighs_and_masks() -> None:
    weights = rewards.RewardWeights(alignment_consensus=2.0, content_free=0.5)
    found = rewards.combine(weights, reference(), group([[0, 1], [0, 2]], [[True, True], [True, False]]))
    expected = torch.tensor([[[2 * math.log(0.6) + 0.5 * math.log(2), 2 * math.log(0.15) + 0.5 * math.log(4)],
                              [2 * math.log(0.6) + 0.5 * math.log(2), 0.0]]], dtype=torch.float64)  # fmt: skip
    torch.testing.assert_close(found, expected)


def test_missing_sources_are_named() -> None:
    with pytest.raises(ValueError, match="copies"):
        rewards.dispersion_content_free(reference(content_free=None), TWO)
    with pytest.raises(ValueError, match="online"):
        rewards.dispersion_stream(reference(stream=None), TWO)
    with pytest.raises(UserError, match="All reward weights are zero"):
        rewards.combine(rewards.RewardWeights(alignment_consensus=0, content_free=0), reference(), TWO)


def test_view_weights_by_hand() -> None:
    log_probs = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]], dtype=torch.float64).log()  # entropies ln 2 and 0
    torch.testing.assert_close(rewards.view_weights(log_probs, 1.0), torch.tensor([[1 / 3, 2 / 3]], dtype=torch.float64))
    torch.testing.assert_close(rewards.view_weights(log_probs, 0.0), torch.tensor([[0.5, 0.5]], dtype=torch.float64))


def test_weighted_log_mean_by_hand() -> None:
    weights = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    expected = logs(0.25 * 0.7 + 0.75 * 0.5, 0.25 * 0.2 + 0.75 * 0.1, 0.25 * 0.1 + 0.75 * 0.4)[None]
    torch.testing.assert_close(rewards.weighted_log_mean(reference().log_probs, weights), expected)


def test_the_gate_opens_where_copies_favour_another_class() -> None:
    copies = torch.tensor([[[0.8, 0.1, 0.1], [0.6, 0.3, 0.1]]], dtype=torch.float64).log()
    agree, differ = logs(0.6, 0.2, 0.2)[None], logs(0.2, 0.6, 0.2)[None]
    mean = logs(0.7, 0.2, 0.1)[None]
    torch.testing.assert_close(rewards.content_free_prior(copies, differ, True), mean)
    torch.testing.assert_close(rewards.content_free_prior(copies, agree, False), mean)
    torch.testing.assert_close(rewards.content_free_prior(copies, agree, True), logs(1 / 3, 1 / 3, 1 / 3)[None])
