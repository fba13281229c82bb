"""CLIP as it comes (arXiv 2103.00020): the class whose prompt is nearest to the untouched picture."""

from __future__ import annotations

from grpo_tta.adapt import Adaptation, Cost
from grpo_tta.contract import ImageBatch, Method, State, no_cuts
from grpo_tta.policy import Observation, Policy


def zero_shot(seen: Observation) -> Adaptation:
    """Predicts pi_0 on view 0; one forward pass."""
    before = seen.log_probs[:, 0]
    return Adaptation(before, before, Cost(1.0))


def zero_shot_method() -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return zero_shot(batch.seen), state

    return Method("zero-shot", "episodic", "none", 1, 0, None, no_cuts, run)
