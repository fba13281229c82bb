"""One episode and its promises, on a tiny random backbone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from grpo_tta.engine.optim import Update, gradient_norm
from grpo_tta.engine.parameters import make_plan
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.controls import reward_argmax
from grpo_tta.method.grpo import Adaptation, adapt, select_views
from grpo_tta.method.rewards import RewardWeights
from grpo_tta.method.settings import PAPER, GRPOSettings

B, V, P = 8, 6, 3
NAMES = [f"image-{i}" for i in range(B)]
BASE = GRPOSettings(views=ViewSettings(views=V, content_free=P), selected=4, learning_rate=0.5, steps=2, last_blocks=None)
VARIANTS = {
    "default": BASE,
    "all-views": replace(BASE, selected=V),
    "adam-kl": replace(BASE, optimizer="adam", learning_rate=1e-2, kl_weight=0.5, advantage="zscore", weighting="uniform"),
    "trust": replace(BASE, optimizer="adam", learning_rate=0.1, max_kl=0.01),
    "head": replace(BASE, last_blocks=0),
    "lora": replace(BASE, tuned="lora", last_blocks=2, learning_rate=5.0),
    "blocks": replace(BASE, tuned="blocks", last_blocks=1),
    "rounds": replace(BASE, selected=V, stop=0.35),
    "sample": replace(BASE, group="sample"),
    "nucleus": replace(BASE, group="nucleus", nucleus_mass=0.8),
    "view": replace(BASE, prediction="view", prior_weight=0.0),
    "own-groups": replace(BASE, group_of="view", view_sharpness=0.0, adapted_prior=True, gated_prior=False),
    "paper": replace(PAPER, views=ViewSettings(views=V, content_free=P), selected=2),
}


def pixels() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(B, 1, 3, 32, 32, generator=generator) + 0.3 * torch.randn(B, V, 3, 32, 32, generator=generator)
    return views, torch.randn(B, P, 3, 32, 32, generator=generator)


def episode(policy: Policy, settings: GRPOSettings, rows: list[int] | None = None) -> Adaptation:
    views, copies = pixels()
    rows = list(range(B)) if rows is None else rows
    plan = make_plan(policy.backbone, settings.tuned, settings.last_blocks, settings.rank)
    seen = policy.observe(views[rows], copies[rows], [plan.first_block])
    return adapt(policy, seen, settings, image_ids=[NAMES[row] for row in rows], seed=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_an_image_is_adapted_as_if_it_were_alone(policy: Policy, name: str) -> None:
    together = episode(policy, VARIANTS[name]).after.exp()
    order = [5, 2, 7, 0, 1, 6, 4, 3]
    reordered = episode(policy, VARIANTS[name], order).after.exp()
    torch.testing.assert_close(reordered, together[order], atol=1e-4, rtol=0)
    for row in (0, 5):
        torch.testing.assert_close(episode(policy, VARIANTS[name], [row]).after.exp()[0], together[row], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_model_is_bitwise_unchanged(policy: Policy, name: str) -> None:
    before = [p.detach().clone() for p in policy.backbone.parameters()]
    found = episode(policy, VARIANTS[name])
    assert all(torch.equal(a, b) for a, b in zip(before, policy.backbone.parameters(), strict=True))
    assert not any(p.requires_grad for p in policy.backbone.parameters())
    torch.testing.assert_close(found.after.exp().sum(-1), torch.ones(B), atol=1e-5, rtol=0)


def test_the_model_is_unchanged_after_a_call_that_raises(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [p.detach().clone() for p in policy.backbone.parameters()]
    views, copies = pixels()
    seen = policy.observe(views, copies, [0])

    def fail(tokens: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(policy.backbone, "head", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        adapt(policy, seen, BASE, image_ids=NAMES)
    monkeypatch.undo()
    assert all(torch.equal(a, b) for a, b in zip(before, policy.backbone.parameters(), strict=True))
    torch.testing.assert_close(policy.observe(views, copies).log_probs, seen.log_probs)


def test_a_step_raises_the_objective_and_moves_the_policy(policy: Policy) -> None:
    found = episode(policy, replace(BASE, advantage="zscore"))
    assert found.episode is not None
    first, second = found.episode.steps
    assert (second.objective > first.objective).all()
    assert first.kl.abs().max() < 1e-6
    assert second.kl.min() > -1e-6  # rounding
    assert second.kl.max() > 1e-5
    assert (found.after - found.before).abs().max() > 1e-3


def test_no_steps_is_the_readout_of_the_frozen_model(policy: Policy) -> None:
    settings = replace(BASE, steps=0, prior_weight=0.0, prediction="view")
    found = episode(policy, settings)
    torch.testing.assert_close(found.after, found.before, atol=1e-5, rtol=0)


def test_equal_rewards_take_no_step(policy: Policy) -> None:
    # the gradient of KL at its minimum is a rounding residue, which Adam would turn into a full step
    settings = replace(BASE, candidates=1, optimizer="adam", kl_weight=1.0, prior_weight=0.0, prediction="view")
    found = episode(policy, settings)
    assert found.episode is not None
    assert not found.episode.proposal.stepped.any()
    torch.testing.assert_close(found.after, found.before, atol=1e-5, rtol=0)


def test_trust_region_bounds_the_divergence(policy: Policy) -> None:
    wild = replace(BASE, optimizer="adam", learning_rate=0.1, steps=3)
    free, bound = episode(policy, wild), episode(policy, replace(wild, max_kl=0.01))
    assert free.episode is not None
    assert bound.episode is not None
    assert max(float(s.kl.max()) for s in free.episode.steps) > 0.01
    assert max(float(s.kl.max()) for s in bound.episode.steps) <= 0.01 + 1e-6
    assert bound.cost.forwards > free.cost.forwards


def test_cost_counts_every_pass(policy: Policy) -> None:
    found = episode(policy, replace(BASE, last_blocks=1, adapted_prior=True))
    # reference: 6 + 3; 2 steps over 4 views, prediction over 4 views and 3 copies, one block of three each
    assert found.cost.forwards == pytest.approx(9 + (2 * 4 + 4 + 3) / 3)
    assert found.cost.backwards == pytest.approx(2 * 4 / 3)


def test_a_step_on_the_heads_norms_runs_no_block_again(policy: Policy) -> None:
    views, copies = pixels()
    depth = len(policy.backbone.blocks)
    seen = policy.observe(views, copies, [depth])
    again = policy.log_probs(policy.backbone.head(seen.tokens[depth].flatten(0, 1))).unflatten(0, (B, V + P))
    torch.testing.assert_close(again, seen.log_probs, atol=1e-5, rtol=0)
    plan = make_plan(policy.backbone, "norm", 0)
    assert plan.first_block == depth
    assert all(name.startswith("head.") for name in plan.replaced)
    found = adapt(policy, seen, replace(BASE, last_blocks=0))
    assert (found.cost.forwards, found.cost.backwards) == (V + P, 0)
    still = adapt(policy, seen, replace(BASE, last_blocks=0, steps=0))
    assert (found.after - still.after).abs().max() > 1e-4


def test_selection_takes_the_surest_views() -> None:
    probs = torch.tensor([[[0.4, 0.6], [0.9, 0.1], [0.5, 0.5], [0.01, 0.99]]])
    assert select_views(probs.log(), 2).tolist() == [[3, 1]]
    assert select_views(probs.log(), 4).tolist() == [[0, 1, 2, 3]]


def test_steps_by_hand() -> None:
    tuned = {"a": torch.zeros(2, 2), "b": torch.zeros(2, 1)}
    gradients = [torch.tensor([[3.0, 0.0], [0.3, 0.0]]), torch.tensor([[4.0], [0.4]])]
    torch.testing.assert_close(gradient_norm(gradients), torch.tensor([5.0, 0.5]))
    moved, norm = Update("sgd", 0.1, 1.0).ascend(tuned, gradients, torch.tensor([True, True]))
    torch.testing.assert_close(norm, torch.tensor([5.0, 0.5]))
    torch.testing.assert_close(moved["a"], torch.tensor([[0.06, 0.0], [0.03, 0.0]]))  # clipped to norm 1; left alone
    torch.testing.assert_close(moved["b"], torch.tensor([[0.08], [0.04]]))
    moved, _ = Update("adam", 0.1, None).ascend(tuned, gradients, torch.tensor([True, False]))
    torch.testing.assert_close(moved["a"], torch.tensor([[0.1, 0.0], [0.0, 0.0]]))
    update = Update("adam", 0.1, None)
    update.ascend(tuned, gradients, torch.tensor([True, True]))
    moved, _ = update.ascend(tuned, gradients, torch.tensor([True, False]))
    assert moved["a"][0, 0] > 0.05
    assert torch.equal(moved["b"][1], torch.zeros(1))  # no step on what is left of the one before
    moved, _ = Update("sgd", 0.1, None).ascend(tuned, [gradients[0] / 0, gradients[1]], torch.tensor([True, True]))
    assert torch.equal(moved["b"], torch.zeros(2, 1))  # a gradient that is not finite moves nothing


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selected": 0}, "cannot be selected"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number"),
        ({"rewards": RewardWeights(content_free=float("inf"))}, "content_free must be a finite number"),
        ({"kl_weight": -5.0}, "kl_weight must be 0 or more"),
        ({"max_gradient_norm": -1.0}, "max_gradient_norm must be positive"),
        ({"target_temperature": 0.0}, "target_temperature must be positive"),
        ({"nucleus_mass": 0.0}, "share above 0"),
        ({"advantage": "foo"}, "Unknown advantage 'foo'"),
        ({"weighting": "foo"}, "Unknown weighting 'foo'"),
        ({"selected": V + 1}, "cannot be selected"),
        ({"candidates": 0}, "at least 1"),
        ({"steps": -1}, "steps"),
        ({"learning_rate": 0.0}, "learning rate must be positive"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"optimizer": "lion"}, "choose sgd or adam"),
        ({"group": "best"}, "choose top_k"),
        ({"group_of": "batch"}, "choose view or image"),
        ({"view_sharpness": -1.0}, "view_sharpness"),
        ({"prediction": "best"}, "choose view or ensemble"),
        ({"max_kl": 0.0}, "max_kl"),
        ({"views": ViewSettings(views=V, content_free=0)}, "copies"),
    ],
)
def test_bad_settings_name_the_remedy(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(BASE, **changes)


def test_more_candidates_than_classes_are_refused(policy: Policy) -> None:
    with pytest.raises(UserError, match="there are only 10 classes; lower candidates to 10"):
        episode(policy, replace(BASE, candidates=11))


def test_without_a_step_the_answer_is_the_reward_argmax_control(policy: Policy) -> None:
    settings = replace(BASE, steps=0, candidates=None)
    views, copies = pixels()
    seen = policy.observe(views, copies, [0])
    torch.testing.assert_close(episode(policy, settings).after, reward_argmax(policy, seen, settings).after, atol=1e-5, rtol=0)
