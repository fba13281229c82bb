"""One episode and its promises, on a tiny random backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from grpo_tta.engine.early_exit import Rounds
from grpo_tta.engine.encode import encode_views
from grpo_tta.engine.interface import Adaptation
from grpo_tta.engine.optim import SGD, Adam
from grpo_tta.engine.parameters import LowRank, NormAffine
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.candidates import Nucleus, Sample, TopK, group_of
from grpo_tta.method.controls import reward_argmax
from grpo_tta.method.grpo import adapt, grpo_method
from grpo_tta.method.objective import ZScore
from grpo_tta.method.prediction import Ensemble, View0
from grpo_tta.method.rewards import Alignment, ContentFree, StreamPrior
from grpo_tta.method.settings import PAPER, GRPOSettings, Steps
from grpo_tta.method.types import Episode
from grpo_tta.method.weighting import ByEntropy, MostConfident

B, V, P = 8, 6, 3
NAMES = [f"image-{i}" for i in range(B)]
BASE = GRPOSettings(
    views=ViewSettings(views=V, content_free=P), weighting=MostConfident(4), tune=NormAffine(), steps=Steps(2, SGD(0.5))
)
VARIANTS = {
    "default": BASE,
    "all-views": replace(BASE, weighting=ByEntropy()),
    "adam-kl": replace(BASE, steps=Steps(2, Adam(1e-2, max_norm=1.0), kl=0.5), advantage=ZScore()),
    "trust": replace(BASE, steps=Steps(2, Adam(0.1, max_norm=1.0), max_kl=0.01)),
    "head": replace(BASE, tune=NormAffine(last_blocks=0)),
    "low-rank": replace(BASE, tune=LowRank(last_blocks=2), steps=Steps(2, SGD(5.0))),
    "rounds": replace(BASE, weighting=ByEntropy(), early_exit=Rounds(share=0.35)),
    "sample": replace(BASE, group=Sample()),
    "nucleus": replace(BASE, group=Nucleus(mass=0.8, at_most=5)),
    "view": replace(BASE, predict=View0()),
    "own-groups": replace(BASE, group=TopK(per="view"), reward=Alignment() + 0.05 * ContentFree(gated=False)),
    "paper": replace(PAPER, views=ViewSettings(views=V, content_free=P), weighting=MostConfident(2)),
}


def pixels() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(B, 1, 3, 32, 32, generator=generator) + 0.3 * torch.randn(B, V, 3, 32, 32, generator=generator)
    return views, torch.randn(B, P, 3, 32, 32, generator=generator)


def episode(policy: Policy, settings: GRPOSettings, rows: list[int] | None = None) -> Adaptation:
    views, content_free = pixels()
    rows = list(range(B)) if rows is None else rows
    tunable = settings.tune(policy.backbone)
    encoded = encode_views(policy, views[rows], content_free[rows], [tunable.first_block])
    return adapt(policy, encoded, settings, image_ids=[NAMES[row] for row in rows], seed=0)


def trace(adaptation: Adaptation) -> Episode:
    assert isinstance(adaptation.trace, Episode)
    return adaptation.trace


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
    views, content_free = pixels()
    encoded = encode_views(policy, views, content_free, [0])

    def fail(tokens: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(policy.backbone, "head", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        adapt(policy, encoded, BASE, image_ids=NAMES)
    monkeypatch.undo()
    assert all(torch.equal(a, b) for a, b in zip(before, policy.backbone.parameters(), strict=True))
    torch.testing.assert_close(encode_views(policy, views, content_free).log_probs, encoded.log_probs)


def test_a_step_raises_the_objective_and_moves_the_policy(policy: Policy) -> None:
    found = episode(policy, replace(BASE, advantage=ZScore()))
    first, second = trace(found).steps
    assert (second.objective > first.objective).all()
    assert first.kl.abs().max() < 1e-6
    assert second.kl.min() > -1e-6  # rounding
    assert second.kl.max() > 1e-5
    assert (found.after - found.before).abs().max() > 1e-3


def test_no_steps_is_the_prediction_of_the_frozen_model(policy: Policy) -> None:
    found = episode(policy, replace(BASE, steps=Steps(0), predict=View0()))
    torch.testing.assert_close(found.after, found.before, atol=1e-5, rtol=0)


def test_equal_rewards_take_no_step(policy: Policy) -> None:
    # the gradient of KL at its minimum is a rounding residue, which Adam would turn into a full step
    settings = replace(BASE, group=TopK(1), steps=Steps(2, Adam(0.5), kl=1.0), predict=View0())
    found = episode(policy, settings)
    assert not trace(found).scored.update_mask.any()
    torch.testing.assert_close(found.after, found.before, atol=1e-5, rtol=0)


def test_trust_region_bounds_the_divergence(policy: Policy) -> None:
    wild = Steps(3, Adam(0.1, max_norm=1.0))
    free, bound = (episode(policy, replace(BASE, steps=steps)) for steps in (wild, replace(wild, max_kl=0.01)))
    assert max(float(s.kl.max()) for s in trace(free).steps) > 0.01
    assert max(float(s.kl.max()) for s in trace(bound).steps) <= 0.01 + 1e-6
    assert bound.cost.of(0)[0] > free.cost.of(0)[0]


def test_cost_counts_every_pass(policy: Policy) -> None:
    found = episode(policy, replace(BASE, tune=NormAffine(last_blocks=1)))
    # reference: 6 + 3; 2 steps over 4 views and the prediction over 4 views, one block of three each
    assert found.cost.of(0) == pytest.approx((9 + (2 * 4 + 4) / 3, 2 * 4 / 3))
    of_view_0 = episode(policy, replace(BASE, tune=NormAffine(last_blocks=1), predict=View0()))
    assert of_view_0.cost.of(0) == pytest.approx((9 + (2 * 4 + 1) / 3, 2 * 4 / 3))


def test_the_records_columns_are_those_of_the_first_view(policy: Policy) -> None:
    found = trace(episode(policy, VARIANTS["nucleus"]))
    columns = found.columns()
    for b in range(B):
        real = found.scored.group.mask[b, 0]
        assert columns["group"][b] == found.scored.group.classes[b, 0][real].tolist()
        assert len(columns["rewards"][b]) == len(columns["advantages"][b]) == int(real.sum())
        assert columns["updated"][b] is bool(found.scored.update_mask[b])
        assert columns["kl"][b] == pytest.approx(float(found.steps[-1].kl[b]))


def test_a_step_on_the_heads_norms_runs_no_block_again(policy: Policy) -> None:
    views, content_free = pixels()
    depth = len(policy.backbone.blocks)
    encoded = encode_views(policy, views, content_free, [depth])
    again = policy.log_probs(policy.backbone.head(encoded.tokens[depth].flatten(0, 1))).unflatten(0, (B, V + P))
    torch.testing.assert_close(again, encoded.log_probs, atol=1e-5, rtol=0)
    head = NormAffine(last_blocks=0)
    assert head(policy.backbone).first_block == depth
    assert all(name.startswith("head.") for name in head(policy.backbone).replaced)
    found = adapt(policy, encoded, replace(BASE, tune=head))
    assert found.cost.of(0) == (V + P, 0)
    still = adapt(policy, encoded, replace(BASE, tune=head, steps=Steps(0)))
    assert (found.after - still.after).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(BASE, weighting=MostConfident(V + 1)), "cannot be selected"),
        (lambda: SGD(float("nan")), "learning_rate must be positive"),
        (lambda: SGD(0.1, max_norm=-1.0), "max_norm must be positive"),
        (lambda: Adam(0.1, weight_decay=-1.0), "weight_decay must be at least 0"),
        (lambda: Steps(-1), "count must be at least 0"),
        (lambda: Steps(clip=0.0), "clip must be positive"),
        (lambda: Steps(kl=-5.0), "kl must be at least 0"),
        (lambda: Steps(max_kl=0.0), "max_kl must be positive"),
        (lambda: Ensemble(-1.0), "prior must be at least 0"),
        (lambda: replace(BASE, reward=0 * Alignment()), "All reward weights are zero"),
        (lambda: replace(BASE, views=ViewSettings(views=V, content_free=0)), "needs content-free views"),
        (lambda: grpo_method(replace(BASE, reward=StreamPrior())), "needs a stream"),
    ],
)
def test_bad_settings_name_the_remedy(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    ("part", "own"),
    [
        ("reward", lambda reference, group: group.old_log_probs[:, :1]),
        ("reward", lambda reference, group: group.old_log_probs * float("nan")),
        ("advantage", lambda rewards, group: rewards[..., :1]),
        ("advantage", lambda rewards, group: rewards / 0),
    ],
)
def test_a_part_of_ones_own_that_is_no_use_is_refused(policy: Policy, part: str, own: object) -> None:
    with pytest.raises(UserError, match=rf"The {part} must be finite numbers of the group's shape \[B, M, K\] \(8, 4, 5\)"):
        episode(policy, replace(BASE, **{part: own}))  # type: ignore[arg-type]


def test_parts_of_ones_own_are_used(policy: Policy) -> None:
    first_two = replace(
        BASE, group=lambda reference, noise: group_of(reference, torch.arange(2).expand(B, 1, 2)),
        reward=lambda reference, group: group.classes.double().to(group.old_log_probs),
        advantage=lambda rewards, group: rewards - 0.5,
    )  # fmt: skip
    scored = trace(episode(policy, first_two)).scored
    assert scored.group.classes.unique().tolist() == [0, 1]
    torch.testing.assert_close(scored.advantages, (scored.group.classes - 0.5).to(scored.advantages))


def test_without_a_step_the_answer_is_the_reward_argmax_control(policy: Policy) -> None:
    settings = replace(BASE, steps=Steps(0))
    views, content_free = pixels()
    encoded = encode_views(policy, views, content_free, [0])
    torch.testing.assert_close(
        episode(policy, settings).after, reward_argmax(policy, encoded, settings).after, atol=1e-5, rtol=0
    )
