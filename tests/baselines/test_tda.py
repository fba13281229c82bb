from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load, save

from grpo_tta.baselines.tda import TDASettings, add_negative, add_positive, cache_logits, empty_caches, tda_method
from grpo_tta.errors import UserError

E1, E2 = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])


def log(*probabilities):
    return torch.tensor(probabilities).log()


def new(**changes):
    settings = TDASettings(**changes)
    return settings, empty_caches(3, 2, settings, torch.device("cpu"))


def test_positive_cache_by_hand():
    """Class 0 holds E1 and E2, queried with E1: 2 (exp(0) + exp(-5)) for class 0, nothing for the others."""
    settings, caches = new()
    add_positive(caches, E1, log(0.8, 0.1, 0.1))
    add_positive(caches, E2, log(0.7, 0.2, 0.1))
    torch.testing.assert_close(cache_logits(caches, E1, settings), torch.tensor([2 * (1 + math.exp(-5)), 0.0, 0.0]))


def test_a_full_queue_gives_up_its_most_uncertain_entry():
    _, caches = new(positive_shots=2)
    sure, fair, unsure = log(0.98, 0.01, 0.01), log(0.8, 0.1, 0.1), log(0.5, 0.3, 0.2)
    add_positive(caches, torch.tensor([1.0, 0.0]), unsure)
    add_positive(caches, torch.tensor([2.0, 0.0]), fair)
    add_positive(caches, torch.tensor([3.0, 0.0]), sure)  # replaces the unsure one
    add_positive(caches, torch.tensor([4.0, 0.0]), unsure)  # no better than what is there
    assert sorted(caches["positive.keys"][0, :, 0].tolist()) == [2.0, 3.0]
    assert not caches["positive.keys"][1:].any()


def test_negative_cache_by_hand():
    """(0.8, 0.18, 0.02) has H = 0.565 nats, over log2 3 0.357: it enters, and lowers what is above 0.03, classes 0 and 1."""
    settings, caches = new()
    add_negative(caches, E1, log(0.8, 0.18, 0.02), settings)
    expected = -0.117 * math.exp(-1) * torch.tensor([1.0, 1.0, 0.0])
    torch.testing.assert_close(cache_logits(caches, E2, settings), expected)


@pytest.mark.parametrize("probabilities", [(0.99, 0.005, 0.005), (0.4, 0.3, 0.3)])
def test_sure_and_lost_images_stay_out_of_the_negative_cache(probabilities):
    settings, caches = new()
    add_negative(caches, E1, log(*probabilities), settings)
    assert not caches["negative.keys"].any()


def test_an_image_is_cached_before_it_is_predicted(policy, images):
    """The first image of a stream finds itself: alpha more for its own class, and nothing else in the positive cache."""
    method = tda_method(TDASettings(negative_alpha=0.0))
    out, _ = method(policy, images(policy, method, ["p"]), {})
    expected = out.before[0].clone()
    expected[expected.argmax()] += 2.0
    torch.testing.assert_close(out.after[0], expected.log_softmax(-1), atol=1e-4, rtol=0)


def test_a_stream_in_parts_is_the_stream(policy, images):
    method = tda_method(TDASettings(entropy_low=0.0, entropy_high=1.0))
    whole, end = method(policy, images(policy, method, "abcdef"), {})
    first, state = method(policy, images(policy, method, "abc"), {})
    kept = {key: value.clone() for key, value in state.items()}
    second, other_end = method(policy, images(policy, method, "def"), load(save(state)))
    torch.testing.assert_close(torch.cat([first.after, second.after]), whole.after, atol=1e-4, rtol=0)
    torch.testing.assert_close(end, other_end, atol=1e-4, rtol=1e-4)
    method(policy, images(policy, method, "def"), state)
    assert all(torch.equal(kept[key], state[key]) for key in kept)  # a state handed in is not written to


def test_refuses_bad_settings():
    with pytest.raises(UserError, match="entropy_low"):
        TDASettings(entropy_low=0.6)
