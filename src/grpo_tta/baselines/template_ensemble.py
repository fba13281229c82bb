"""Prompt ensemble (arXiv 2103.00020, section 3.1.4): zero-shot with each class's text feature averaged over templates.

The templates are the task's own ensemble; CLIP's paper uses 80 for ImageNet and others by data set. Where a task names
none, this is zero-shot.
"""

from __future__ import annotations

from grpo_tta.baselines.common import class_log_probs, ensemble_features
from grpo_tta.engine.interface import Adaptation, Cost, EncodedViews, ImageBatch, Method, State, no_cached_blocks
from grpo_tta.engine.policy import Policy


def template_ensemble(policy: Policy, encoded: EncodedViews) -> Adaptation:
    """softmax_c(s <f(v_0), normalise(mean_h t_hc)>); one forward pass, and C * H text passes once per task."""
    after = class_log_probs(policy, encoded.features[:, 0], ensemble_features(policy))
    return Adaptation(encoded.log_probs[:, 0], after, Cost(1.0))


def template_ensemble_method(name: str = "template-ensemble") -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return template_ensemble(policy, batch.encoded), state

    return Method(name, "episodic", "none", 1, 0, None, no_cached_blocks, run, reads_text=True)
