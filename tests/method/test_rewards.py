"""Literal numbers for every reward, on one image with two views and three classes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from grpo_tta.errors import UserError
from grpo_tta.method.rewards import Alignment, ContentFree, Semantic, StreamPrior, Sum, needs_of
from grpo_tta.method.types import CandidateGroup, Reference
from tests.method.references import reference_of

VIEWS = torch.tensor([[[0.7, 0.2, 0.1], [0.5, 0.1, 0.4]]], dtype=torch.float64).log()
TEXT = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], dtype=torch.float64)


def reference(**changes: Any) -> Reference:
    given = {
        "content_free": torch.tensor([[0.25, 0.5, 0.25]], dtype=torch.float64).log(),
        "text_features": TEXT,
        "stream": torch.tensor([[0.1, 0.1, 0.8]], dtype=torch.float64).log(),
    }
    return reference_of(VIEWS, **(given | changes))


def group(classes: list[list[int]], mask: list[list[bool]] | None = None) -> CandidateGroup:
    index = torch.tensor([classes])
    real = torch.ones_like(index, dtype=torch.bool) if mask is None else torch.tensor([mask])
    return CandidateGroup(index, VIEWS.gather(-1, index), real)


TWO = group([[0, 1], [0, 2]])


def logs(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).log()


def test_alignment_with_each_view() -> None:
    found = Alignment(per="view")(reference(), TWO)
    torch.testing.assert_close(found, torch.stack([logs(0.7, 0.2), logs(0.5, 0.4)])[None])


def test_alignment_with_the_ensemble_prediction() -> None:
    expected = torch.stack([logs(0.6, 0.15), logs(0.6, 0.25)])[None]
    torch.testing.assert_close(Alignment()(reference(), TWO), expected)


def test_content_free() -> None:
    # content-free views favour class 1, the views class 0: the gate lets the prior through
    expected = -torch.stack([logs(0.25, 0.5), logs(0.25, 0.25)])[None]
    torch.testing.assert_close(ContentFree()(reference(), TWO), expected)


def test_the_gate_leaves_the_prior_out_where_it_is_the_answer() -> None:
    agree = reference(content_free=logs(0.8, 0.1, 0.1)[None])
    torch.testing.assert_close(agree.content_free_prior(), logs(1 / 3, 1 / 3, 1 / 3)[None])
    torch.testing.assert_close(agree.content_free_prior(gated=False), logs(0.8, 0.1, 0.1)[None])
    torch.testing.assert_close(ContentFree()(agree, TWO), torch.full((1, 2, 2), math.log(3), dtype=torch.float64))
    torch.testing.assert_close(ContentFree(gated=False)(agree, TWO), -torch.stack([logs(0.8, 0.1)] * 2)[None])


def test_stream() -> None:
    expected = -torch.stack([logs(0.1, 0.1), logs(0.1, 0.8)])[None]
    torch.testing.assert_close(StreamPrior()(reference(), TWO), expected)


def test_semantic() -> None:
    # cosines: t0 t1 = 0.6, t0 t2 = 0, t1 t2 = 0.8
    found = Semantic()(reference(), group([[0, 1, 2], [2, 1, 0]]))
    expected = torch.tensor([[[1 - 0.3, 1 - 0.7, 1 - 0.4], [1 - 0.4, 1 - 0.7, 1 - 0.3]]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_semantic_of_one_candidate_is_zero() -> None:
    found = Semantic()(reference(), group([[0, 1], [0, 1]], [[True, False], [True, True]]))
    torch.testing.assert_close(found[0, 0, 0], torch.tensor(0.0, dtype=torch.float64))
    torch.testing.assert_close(found[0, 1], torch.tensor([0.4, 0.4], dtype=torch.float64))


def test_rewards_add_up_and_take_weights() -> None:
    found = (2 * Alignment() + 0.5 * ContentFree())(reference(), TWO)
    torch.testing.assert_close(found, 2 * Alignment()(reference(), TWO) + 0.5 * ContentFree()(reference(), TWO))
    assert 2 * (Alignment() + 0.5 * ContentFree()) == Sum(((2.0, Alignment()), (1.0, ContentFree())))


def one(reference: Reference, group: CandidateGroup) -> Tensor:
    return torch.ones_like(group.old_log_probs)


def test_a_function_of_ones_own_adds_up_too() -> None:
    for total in (Alignment() + one, one + Alignment()):
        torch.testing.assert_close(total(reference(), TWO), Alignment()(reference(), TWO) + 1)
    with pytest.raises(TypeError):
        Alignment() + 3  # type: ignore[operator]
    with pytest.raises(TypeError):
        Alignment() * Alignment()  # type: ignore[operator]


def test_a_sum_needs_what_its_parts_need() -> None:
    assert needs_of(Alignment() + ContentFree()) == {"content_free"}
    assert needs_of(Alignment() + 0 * ContentFree()) == set()
    assert needs_of(StreamPrior() + ContentFree()) == {"content_free", "stream"}
    assert needs_of(one) == set()


def test_missing_sources_are_named() -> None:
    with pytest.raises(ValueError, match="needs content-free views"):
        ContentFree()(reference(content_free=None), TWO)
    with pytest.raises(ValueError, match="online"):
        StreamPrior()(reference(stream=None), TWO)
    with pytest.raises(UserError, match="All reward weights are zero"):
        (0 * Alignment())(reference(), TWO)
    with pytest.raises(UserError, match="finite number"):
        float("inf") * Alignment()
    with pytest.raises(UserError, match="choose image or view"):
        Alignment(per="class")  # type: ignore[arg-type]
