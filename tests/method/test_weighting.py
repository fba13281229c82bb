from __future__ import annotations

import math

import pytest
import torch

from grpo_tta.errors import UserError
from grpo_tta.method.weighting import ByEntropy, MostConfident

LOG_PROBS = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]], dtype=torch.float64).log()  # relative entropies 1 and 0
BOTH, FIRST = torch.tensor([[True, True]]), torch.tensor([[True, False]])


def test_weights_by_hand() -> None:
    torch.testing.assert_close(ByEntropy(math.log(2))(LOG_PROBS, BOTH), torch.tensor([[1 / 3, 2 / 3]], dtype=torch.float64))
    torch.testing.assert_close(ByEntropy(0.0)(LOG_PROBS, BOTH), torch.tensor([[0.5, 0.5]], dtype=torch.float64))
    torch.testing.assert_close(MostConfident(2)(LOG_PROBS, BOTH), torch.tensor([[0.5, 0.5]], dtype=torch.float64))


def test_a_view_that_was_not_read_weighs_nothing() -> None:
    for weighting in (ByEntropy(1.0), MostConfident(2)):
        torch.testing.assert_close(weighting(LOG_PROBS, FIRST), torch.tensor([[1.0, 0.0]], dtype=torch.float64))


def test_which_views_count() -> None:
    assert ByEntropy().select(LOG_PROBS).tolist() == [[0, 1]]
    assert MostConfident(1).select(LOG_PROBS).tolist() == [[1]]
    assert MostConfident(9).select(LOG_PROBS).tolist() == [[0, 1]]


def test_bad_weightings_are_refused() -> None:
    with pytest.raises(UserError, match="sharpness must be at least 0"):
        ByEntropy(-1.0)
    with pytest.raises(UserError, match="count must be at least 1"):
        MostConfident(0)


def test_the_number_of_labels_does_not_matter() -> None:
    """A view that is torn between the square root of all classes lies half way, whether these are 4 or 10,000."""
    weights = []
    for classes in (4, 10_000):
        torn, sure = torch.full((classes,), -torch.inf), torch.full((classes,), -torch.inf)
        torn[: math.isqrt(classes)], sure[0] = 0.0, 0.0
        weights.append(ByEntropy(2.0)(torch.stack([torn, sure]).log_softmax(-1)[None], BOTH)[0])
    torch.testing.assert_close(weights[0], weights[1])
    torch.testing.assert_close(weights[0][1] / weights[0][0], torch.tensor(math.e))
