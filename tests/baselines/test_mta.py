from __future__ import annotations

import math

import pytest
import torch

from grpo_tta.baselines.mta import MTASettings, bandwidths, inlierness, kernel, mta_method, shift
from grpo_tta.errors import UserError


def test_bandwidth_is_the_mean_squared_distance_to_the_nearest_views():
    # On a line at 0, 1, 3: with half of the two others, the nearest alone; with all, both.
    features = torch.tensor([[[0.0], [1.0], [3.0]]])
    torch.testing.assert_close(bandwidths(features, 0.5), torch.tensor([[1.0, 1.0, 4.0]]))
    torch.testing.assert_close(bandwidths(features, 1.0), torch.tensor([[5.0, 2.5, 6.5]]))


def test_kernel():
    features, mode = torch.tensor([[[0.0, 0.0], [1.0, 2.0]]]), torch.tensor([[0.0, 0.0]])
    found = kernel(features, mode, torch.tensor([[1.0, 10.0]]))
    torch.testing.assert_close(found, torch.tensor([[1.0, math.exp(-0.5)]]))


def test_one_turn_of_the_inlierness_scores():
    """y = (0.25, 0.75), w = identity, lambda_q = 4, lambda_y = 2: exponents (1 + 1)/2 and (0 + 3)/2."""
    settings = MTASettings(entropy_weight=2.0, affinity_weight=4.0)
    density, scores = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.25, 0.75]])
    found = inlierness(density, torch.eye(2)[None], scores, settings)
    e1, e2 = math.exp(1.0), math.exp(1.5)
    torch.testing.assert_close(found, torch.tensor([[e1 / (e1 + e2), e2 / (e1 + e2)]]))


def test_one_mean_shift_step():
    """Weights y K = (0.5 * 1, 0.25 * 0.4, 0.25 * 0) = (0.5, 0.1, 0): m = (0.5 * 0 + 0.1 * 6) / 0.6 = 1."""
    features = torch.tensor([[[0.0], [6.0], [100.0]]])
    found = shift(features, torch.tensor([[1.0, 0.4, 0.0]]), torch.tensor([[0.5, 0.25, 0.25]]))
    torch.testing.assert_close(found, torch.tensor([[1.0]]))


def test_small_setting(policy, check_method):
    check_method(policy, mta_method(MTASettings(views=6)))


def test_refuses_bad_settings():
    with pytest.raises(UserError, match="neighbours"):
        MTASettings(neighbours=0.0)
    with pytest.raises(UserError, match="entropy_weight"):
        MTASettings(entropy_weight=0.0)
