"""A bound on how far a step may move the policy, kept by backtracking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from grpo_tta.engine.distributions import kl_divergence
from grpo_tta.engine.loop import Params
from grpo_tta.engine.optim import per_image
from grpo_tta.engine.parameters import TunableParameters
from grpo_tta.engine.policy import Policy

HALVINGS = 3


@final
class TrustRegion:
    """Shortens each image's step until its mean KL(pi_theta || pi_0) over the views is at most `max_kl`.

    The step is halved up to three times, each image for itself; one that is still too long is dropped (backtracking as in
    TRPO, arXiv 1502.05477). Without `max_kl` every step is kept.

    Attributes:
        tokens: `[B, M, T, W]` that enter the first tuned block.
        trials: forward passes over the M views that it took so far.
    """

    def __init__(
        self, policy: Policy, tokens: Tensor, tunable: TunableParameters, reference_log_probs: Tensor, max_kl: float | None
    ) -> None:
        self.tokens, self.trials = tokens, 0
        self._policy, self._tunable, self._reference, self._max_kl = policy, tunable, reference_log_probs, max_kl

    @torch.no_grad()
    def __call__(self, before: Mapping[str, Tensor], after: Params) -> Params:
        """The parameters that are kept of a step from `before` to `after`."""
        if self._max_kl is None:
            return after
        share = torch.ones(len(self.tokens), device=self.tokens.device)
        current = dict(after)
        for trial in range(1, HALVINGS + 2):
            self.trials += 1
            new = self._policy.adapted(self.tokens, self._tunable, current)
            too_far = ~(kl_divergence(new, self._reference).mean(1) <= self._max_kl)  # NaN is too far, too
            if not too_far.any():
                break
            share = torch.where(too_far, 0.0 if trial == HALVINGS + 1 else share / 2, share)
            current = {name: _shortened(before[name], value, share) for name, value in after.items()}
        return current


def _shortened(before: Tensor, after: Tensor, share: Tensor) -> Tensor:
    part = per_image(share, after)
    return torch.where(part > 0, before.lerp(after, part), before).detach().requires_grad_()
