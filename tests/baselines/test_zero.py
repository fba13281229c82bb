from __future__ import annotations

import pytest
import torch

from grpo_tta.baselines.zero import ZeroSettings, count_votes, zero
from grpo_tta.engine.interface import EncodedViews
from grpo_tta.errors import UserError


def log_rows(*rows):
    return torch.tensor([rows]).log()


SURE_0 = (0.90, 0.05, 0.05)
SURE_1 = (0.05, 0.88, 0.07)
MILD_1 = (0.20, 0.70, 0.10)
MILD_2 = (0.20, 0.15, 0.65)
WEAK_1 = (0.25, 0.45, 0.30)


def test_19_of_64_vote():
    assert ZeroSettings().selected == 19


def test_majority_of_the_confident_views():
    votes = count_votes(log_rows(WEAK_1, MILD_1, SURE_0, SURE_1), 3)
    assert votes.tolist() == [[1.0, 2.0, 0.0]]


def test_a_tie_is_broken_by_the_next_view_that_votes_for_a_tied_class():
    """Kept are SURE_0 and SURE_1, a tie of classes 0 and 1. Of the rest, in order of confidence, MILD_2 votes for a class
    that is not tied and WEAK_1 for class 1, which wins, although the most confident view of all says 0."""
    votes = count_votes(log_rows(WEAK_1, SURE_1, MILD_2, SURE_0), 2)
    assert votes.tolist() == [[1.0, 1.5, 0.0]]


def test_a_tie_that_no_other_view_breaks_goes_to_the_most_confident_one():
    votes = count_votes(log_rows(SURE_1, SURE_0, MILD_2), 2)
    assert votes.tolist() == [[1.5, 1.0, 0.0]]


def test_probabilities_are_shares_of_votes():
    log_probs = log_rows(WEAK_1, MILD_1, SURE_0, SURE_1)
    out = zero(EncodedViews(torch.zeros(1, 4, 2), log_probs, {}, 4), ZeroSettings(views=4, kept=0.75))
    torch.testing.assert_close(out.after.exp(), torch.tensor([[1 / 3, 2 / 3, 0.0]]), atol=1e-5, rtol=0)
    assert torch.isfinite(out.after).all()
    assert out.cost.forwards == 4


@pytest.mark.parametrize("kept", [0.0, 1.1])
def test_refuses_a_share_out_of_range(kept):
    with pytest.raises(UserError, match="kept"):
        ZeroSettings(kept=kept)
