from __future__ import annotations

import pytest
import torch

from grpo_tta.errors import UserError
from grpo_tta.method.weighting import ByEntropy, MostConfident

LOG_PROBS = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]], dtype=torch.float64).log()  # entropies ln 2 and 0
BOTH, FIRST = torch.tensor([[True, True]]), torch.tensor([[True, False]])


def test_weights_by_hand() -> None:
    torch.testing.assert_close(ByEntropy(1.0)(LOG_PROBS, BOTH), torch.tensor([[1 / 3, 2 / 3]], dtype=torch.float64))
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
