"""Prompt ensemble (arXiv 2103.00020, section 3.1.4): zero-shot with each class's text feature averaged over templates.

The templates are the task's own ensemble; CLIP's paper uses 80 for ImageNet and others by data set. Where a task names
none, this is zero-shot.
"""

from __future__ import annotations

from grpo_tta.baselines.prompt_features import ensemble_features, read_off
from grpo_tta.engine.interface import ImageBatch, Method, State, no_cuts
from grpo_tta.engine.policy import EncodedViews, Policy
from grpo_tta.method.grpo import Adaptation, Cost


def template_ensemble(policy: Policy, seen: EncodedViews) -> Adaptation:
    """softmax_c(s <f(v_0), normalise(mean_h t_hc)>); one forward pass, and C * H text passes once per task."""
    after = read_off(policy, seen.features[:, 0], ensemble_features(policy))
    return Adaptation(seen.log_probs[:, 0], after, Cost(1.0))


def template_ensemble_method(name: str = "template-ensemble") -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return template_ensemble(policy, batch.seen), state

    return Method(name, "episodic", "none", 1, 0, None, no_cuts, run)
