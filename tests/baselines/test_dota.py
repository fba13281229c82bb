from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save

from grpo_tta.baselines.dota import DOTASettings, dota_method, first_gaussians, gaussian_scores, learn
from grpo_tta.engine.distributions import entropy
from grpo_tta.errors import UserError

PLAIN = DOTASettings(variance=0.5, shrinkage=0.0)
TEXT = torch.eye(2)


def test_scores_before_the_stream_by_hand():
    """L = 2 I: twice the cosine, less half of 2 |mu|^2 = 1."""
    found = gaussian_scores(first_gaussians(TEXT, PLAIN), torch.tensor([0.6, 0.8]), PLAIN)
    torch.testing.assert_close(found, torch.tensor([0.2, 0.6]))


def test_shrinkage_is_towards_the_identity():
    """0.5 * 0.5 + 0.5 * 1 = 0.75 on the diagonal."""
    settings = replace(PLAIN, shrinkage=0.5)
    found = gaussian_scores(first_gaussians(TEXT, settings), torch.tensor([0.6, 0.8]), settings)
    torch.testing.assert_close(found, torch.tensor([0.6 - 0.5, 0.8 - 0.5]) / 0.75)


def test_learning_by_hand():
    """(0, 1) with probabilities (1/4, 3/4). It is (-1, 1) off the mean of class 0 and on that of class 1."""
    found = learn(first_gaussians(TEXT, PLAIN), torch.tensor([[0.0, 1.0]]), torch.tensor([[0.25, 0.75]]))
    torch.testing.assert_close(found["counts"], torch.tensor([1.25, 1.75]))
    torch.testing.assert_close(found["means"], torch.tensor([[0.8, 0.2], [0.0, 1.0]]))
    first = (torch.tensor([[0.5, 0.0], [0.0, 0.5]]) + 0.25 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]])) / 1.25
    torch.testing.assert_close(found["covariances"], torch.stack([first, 0.5 * torch.eye(2) / 1.75]))
    pooled = learn(first_gaussians(TEXT, replace(PLAIN, pooled=True)), torch.tensor([[0.0, 1.0]]), torch.tensor([[0.25, 0.75]]))
    torch.testing.assert_close(pooled["covariances"], ((1.25 * first + 0.5 * torch.eye(2)) / 3)[None])


def test_an_image_is_predicted_before_it_is_learned_from(policy, images):
    """The first image: zero-shot logits and w = 0.005 times the scores of the prompts themselves."""
    settings = DOTASettings()
    method = dota_method(settings)
    batch = images(policy, method, ["p"])
    out, state = method(policy, batch, {})
    scores = gaussian_scores(first_gaussians(policy.text_features, settings), batch.encoded.features[0, 0], settings)
    expected = (batch.encoded.log_probs[0, 0] + 0.005 * scores).log_softmax(-1)
    torch.testing.assert_close(out.after[0], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(state["counts"].sum(), torch.tensor(6.0))  # five classes, one image


def test_the_weight_grows_with_the_stream_to_its_limit(policy, images):
    """The counts are 1 on average before the first image and 1.2 before the second; the limit takes hold at 0.0055."""
    settings = DOTASettings(most=0.0055)
    method = dota_method(settings)
    batch = images(policy, method, ["p", "q"])
    out, _ = method(policy, batch, {})
    _, state = method(policy, batch.part([0]), {})
    scores = gaussian_scores(state, batch.encoded.features[1, 0], settings)
    expected = (batch.encoded.log_probs[1, 0] + 0.0055 * scores).log_softmax(-1)
    torch.testing.assert_close(out.after[1], expected, atol=1e-4, rtol=0)


def test_views_count_as_images(policy, images):
    method = dota_method(DOTASettings(views=6, selected=3))
    batch = images(policy, method, "pq")
    out, state = method(policy, batch, {})
    torch.testing.assert_close(state["counts"].sum(), torch.tensor(5.0 + 2 * 3))
    # the first image: the counts are 1, and a third of rho is the weight; the three views' logits and features are averaged
    chosen = entropy(batch.encoded.log_probs[0]).argsort()[:3]
    scores = gaussian_scores(
        first_gaussians(policy.text_features, DOTASettings()), batch.encoded.features[0, chosen].mean(0), DOTASettings()
    )
    expected = (batch.encoded.log_probs[0, chosen].mean(0) + 0.005 / 3 * scores).log_softmax(-1)
    torch.testing.assert_close(out.after[0], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_stream_in_parts_is_the_stream(policy, images, pooled):
    method = dota_method(DOTASettings(growth=0.05, most=3.0, pooled=pooled))
    whole, end = method(policy, images(policy, method, "abcdef"), {})
    first, state = method(policy, images(policy, method, "abc"), {})
    second, other_end = method(policy, images(policy, method, "def"), load(save(state)))
    torch.testing.assert_close(torch.cat([first.after, second.after]), whole.after, atol=1e-3, rtol=0)
    torch.testing.assert_close(end, other_end, atol=1e-4, rtol=1e-4)
    assert (whole.after.exp() - whole.before.exp()).abs().max() > 1e-3


def test_a_long_list_of_labels_is_refused_unless_pooled():
    text = torch.zeros(1000, 1280)
    with pytest.raises(UserError, match="use dota-pooled"):
        first_gaussians(text, DOTASettings())
    assert first_gaussians(text, DOTASettings(pooled=True))["covariances"].shape == (1, 1280, 1280)


def test_refuses_bad_settings():
    with pytest.raises(UserError, match="growth"):
        DOTASettings(growth=0.0)
