"""A user's own reward in place of the settings'."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from grpo_tta import GRPOTTA, CandidateGroup, Reference, UserError
from grpo_tta.backbones.base import Backbone
from grpo_tta.engine.encode import encode_images
from grpo_tta.images.seeds import ImageNoise
from grpo_tta.method.candidates import Nucleus
from grpo_tta.method.grpo import reference_pass, score_candidates
from grpo_tta.method.settings import DEFAULT, PAPER
from tests.service.conftest import LABELS, drawing


@pytest.mark.parametrize("settings", [DEFAULT, PAPER])
def test_the_settings_own_sum_gives_the_settings_own_answer(nano_backbone: Backbone, settings: object) -> None:
    def same(reference: Reference, group: CandidateGroup) -> Tensor:
        return settings.reward(reference, group)  # type: ignore[attr-defined]

    plain, own = (GRPOTTA(nano_backbone, LABELS, settings=settings, reward=reward) for reward in (None, same))  # type: ignore[arg-type]
    assert own.explain(drawing(0)) == plain.explain(drawing(0))


def test_a_reward_moves_the_advantages(nano_backbone: Backbone) -> None:
    def last(reference: Reference, group: CandidateGroup) -> Tensor:
        return group.classes.float()  # the later in the list, the better

    explained = GRPOTTA(nano_backbone, LABELS, settings=PAPER, reward=last).explain(drawing(0))
    for view in explained.views:
        order = sorted(view.candidates, key=lambda c: LABELS.index(c.label))
        assert [c.reward for c in order] == [LABELS.index(c.label) for c in order]
        assert order[0].advantage < order[1].advantage < order[2].advantage


def test_useless_rewards_are_refused(nano_backbone: Backbone) -> None:
    for reward in (lambda r, g: g.classes.float()[:, :1], lambda r, g: g.classes.float() + float("nan")):
        with pytest.raises(UserError, match=r"finite numbers of the group's shape \[B, M, K\] \(1, 6, 3\)"):
            GRPOTTA(nano_backbone, LABELS, settings=PAPER, reward=reward).predict(drawing(0))


def test_masked_candidates_earn_nothing(nano_backbone: Backbone) -> None:
    settings = replace(PAPER, group=Nucleus(mass=0.5, at_most=3, per="view"), reward=lambda r, g: torch.ones(g.classes.shape))
    classifier = GRPOTTA(nano_backbone, LABELS, settings=settings)
    batch = encode_images(classifier.policy, [drawing(0)], ["x"], settings.views, 0)
    reference = reference_pass(classifier.policy, batch.encoded, settings)
    scored = score_candidates(reference, settings, ImageNoise(0, ("x",)))
    assert not scored.group.mask.all()
    assert torch.equal(scored.rewards, scored.group.mask.float())
