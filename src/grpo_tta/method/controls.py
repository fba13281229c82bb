"""The control: GRPO-TTA's rewards for every class, averaged over the selected views, read off without any update.

What the policy step itself adds is GRPO-TTA's accuracy minus this one's.
"""

from __future__ import annotations

import torch

from grpo_tta.engine.interface import ImageBatch, Method, State, no_cuts
from grpo_tta.engine.policy import EncodedViews, Policy
from grpo_tta.method.candidates import CandidateGroup
from grpo_tta.method.grpo import Adaptation, Cost, refer
from grpo_tta.method.rewards import combine
from grpo_tta.method.settings import GRPOSettings


def reward_argmax(policy: Policy, seen: EncodedViews, settings: GRPOSettings) -> Adaptation:
    """softmax over all C classes of the mean reward over the M selected views (those of them that were read); V + P passes.

    With the consensus reward this is what GRPO-TTA predicts when no step is taken.
    """
    _, reference = refer(policy, seen, settings)
    B, M, C = reference.log_probs.shape
    classes = torch.arange(C, device=reference.log_probs.device).expand(B, M, C)
    everyone = CandidateGroup(classes, reference.log_probs, torch.ones_like(classes, dtype=torch.bool))
    rewards = combine(settings.rewards, reference, everyone)  # [B, M, C]
    if reference.read is None:
        return Adaptation(seen.log_probs[:, 0], rewards.mean(1).log_softmax(-1), Cost(float(seen.log_probs.shape[1])))
    read = reference.read.sum(1)  # [B]
    rewards = (rewards * reference.read[..., None]).sum(1) / read[:, None]
    passes = seen.log_probs.shape[1] - seen.views + read
    return Adaptation(seen.log_probs[:, 0], rewards.log_softmax(-1), Cost(passes))


def reward_argmax_method(settings: GRPOSettings, name: str = "reward-argmax") -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return reward_argmax(policy, batch.seen, settings), state

    views = settings.views
    return Method(name, "episodic", "own", views.views, views.content_free, settings, no_cuts, run, stop=settings.stopping)
