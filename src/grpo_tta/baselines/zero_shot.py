"""CLIP as it comes (arXiv 2103.00020): the class whose prompt is nearest to the untouched image."""

from __future__ import annotations

from grpo_tta.engine.interface import Adaptation, Cost, EncodedViews, ImageBatch, Method, State, no_cached_blocks
from grpo_tta.engine.policy import Policy


def zero_shot(encoded: EncodedViews) -> Adaptation:
    """Predicts pi_0 on view 0; one forward pass."""
    before = encoded.log_probs[:, 0]
    return Adaptation(before, before, Cost(1.0))


def zero_shot_method() -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return zero_shot(batch.encoded), state

    return Method("zero-shot", "episodic", "none", 1, 0, None, no_cached_blocks, run)
