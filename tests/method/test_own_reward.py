"""A user's own reward in place of the settings'."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from grpo_tta import GRPOTTA, UserError
from grpo_tta.backbones.base import Backbone
from grpo_tta.method.candidates import CandidateGroup
from grpo_tta.method.rewards import Reference, combine
from grpo_tta.method.settings import DEFAULT, PAPER
from tests.service.conftest import LABELS, drawing


@pytest.mark.parametrize("settings", [DEFAULT, PAPER])
def test_the_settings_own_sum_gives_the_settings_own_answer(nano_backbone: Backbone, settings: object) -> None:
    def same(reference: Reference, group: CandidateGroup) -> Tensor:
        return combine(settings.rewards, reference, group)  # type: ignore[attr-defined]

    plain, own = (GRPOTTA(nano_backbone, LABELS, settings=settings, reward=reward) for reward in (None, same))  # type: ignore[arg-type]
    assert own.explain(drawing(0)) == plain.explain(drawing(0))


def test_a_reward_moves_the_advantages(nano_backbone: Backbone) -> None:
    def last(reference: Reference, group: CandidateGroup) -> Tensor:
        return group.classes.float()  # the later in the list, the better

    told = GRPOTTA(nano_backbone, LABELS, settings=PAPER, reward=last).explain(drawing(0))
    for view in told.views:
        order = sorted(view.candidates, key=lambda c: LABELS.index(c.label))
        assert [c.reward for c in order] == [LABELS.index(c.label) for c in order]
        assert order[0].advantage < order[1].advantage < order[2].advantage


def test_useless_rewards_are_refused(nano_backbone: Backbone) -> None:
    for reward in (lambda r, g: g.classes.float()[:, :1], lambda r, g: g.classes.float() + float("nan")):
        with pytest.raises(UserError, match=r"finite numbers of the group's shape \[B, M, K\] \(1, 6, 3\)"):
            GRPOTTA(nano_backbone, LABELS, settings=PAPER, reward=reward).predict(drawing(0))


def test_masked_candidates_earn_nothing(nano_backbone: Backbone) -> None:
    from dataclasses import replace

    from grpo_tta.engine.batches import make_batch
    from grpo_tta.method.grpo import propose_steps

    settings = replace(PAPER, group="nucleus", nucleus_mass=0.5)
    classifier = GRPOTTA(nano_backbone, LABELS, settings=settings)
    views, copies = make_batch(nano_backbone, [drawing(0)], ["x"], settings.views, 0)
    seen = classifier.policy.observe(views, copies)
    proposal = propose_steps(classifier.policy, seen, settings, reward=lambda r, g: torch.ones(g.classes.shape))
    assert not proposal.group.mask.all()
    assert torch.equal(proposal.rewards, proposal.group.mask.float())
