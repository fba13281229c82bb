"""The control: GRPO-TTA's rewards for every class, averaged over the selected views, computed without an update.

What the policy step itself adds is GRPO-TTA's accuracy minus this one's.
"""

from __future__ import annotations

from grpo_tta.engine.distributions import mean_over_views
from grpo_tta.engine.interface import Adaptation, Cost, EncodedViews, ImageBatch, Method, State, no_cached_blocks
from grpo_tta.engine.policy import Policy
from grpo_tta.method.candidates import every_class
from grpo_tta.method.grpo import reference_pass
from grpo_tta.method.settings import GRPOSettings


def reward_argmax(policy: Policy, encoded: EncodedViews, settings: GRPOSettings) -> Adaptation:
    """softmax over all C classes of the mean reward over the selected views (those of them that were read).

    With `Alignment()` this is what GRPO-TTA predicts when no step is taken. V + P forward passes.
    """
    reference = reference_pass(policy, encoded, settings)
    rewards = settings.reward(reference, every_class(reference))  # [B, M, C]
    after = mean_over_views(rewards, reference.view_mask).log_softmax(-1)
    P = encoded.log_probs.shape[1] - encoded.views
    return Adaptation(encoded.log_probs[:, 0], after, Cost(reference.views_read + P))


def reward_argmax_method(settings: GRPOSettings, name: str = "reward-argmax") -> Method:
    """
    Raises:
        UserError: the settings need a stream.
    """
    settings.check_episodic()

    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return reward_argmax(policy, batch.encoded, settings), state

    V, P = settings.views.views, settings.views.content_free
    return Method(name, "episodic", "own", V, P, settings, no_cached_blocks, run, early_exit=settings.early_exit)
