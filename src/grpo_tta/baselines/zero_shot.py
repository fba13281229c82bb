"""CLIP as it comes (arXiv 2103.00020): the class whose prompt is nearest to the untouched image."""

from __future__ import annotations

from grpo_tta.engine.interface import ImageBatch, Method, State, no_cuts
from grpo_tta.engine.policy import EncodedViews, Policy
from grpo_tta.method.grpo import Adaptation, Cost


def zero_shot(seen: EncodedViews) -> Adaptation:
    """Predicts pi_0 on view 0; one forward pass."""
    before = seen.log_probs[:, 0]
    return Adaptation(before, before, Cost(1.0))


def zero_shot_method() -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return zero_shot(batch.seen), state

    return Method("zero-shot", "episodic", "none", 1, 0, None, no_cuts, run)
