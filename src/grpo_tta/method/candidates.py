"""Groups: which class prompts of the old policy are scored against each other.

`top_k` is deterministic, `sample` draws without replacement (Gumbel top-K, Kool et al. 2019), `nucleus` takes the
smallest set that holds a mass p (Holtzman et al. 2020), capped at K and given as a mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from grpo_tta.errors import UserError

GroupRule = Literal["top_k", "sample", "nucleus"]
GROUP_RULES: tuple[GroupRule, ...] = ("top_k", "sample", "nucleus")


@final
@dataclass(frozen=True)
class CandidateGroup:
    """K class candidates for each of M views of B images.

    Attributes:
        classes: `[B, M, K]` int64, indices into the C classes.
        old_log_probs: `[B, M, K]`, log pi_old of the candidates.
        mask: `[B, M, K]` bool, false where a candidate only fills up the group.
    """

    classes: Tensor
    old_log_probs: Tensor
    mask: Tensor

    def gather(self, per_class: Tensor) -> Tensor:
        """Values `[B, M, C]` (or broadcastable to it) of the candidates: `[B, M, K]`."""
        B, M, _ = self.classes.shape
        return per_class.expand(B, M, per_class.shape[-1]).gather(-1, self.classes)


def share(group: CandidateGroup, log_probs: Tensor) -> CandidateGroup:
    """One group for all views of an image: a group `[B, 1, K]` with each view's own log pi_old, from `[B, M, C]`.

    A view that is wrong may not hold the right class among its own first K; a group of its own would then only
    reinforce wrong classes against each other.
    """
    B, M, _ = log_probs.shape
    classes = group.classes.expand(B, M, -1)
    return CandidateGroup(classes, log_probs.gather(-1, classes), group.mask.expand(B, M, -1))


def propose(
    log_probs: Tensor, K: int, rule: GroupRule = "top_k", *, mass: float = 0.9, gumbel: Tensor | None = None
) -> CandidateGroup:
    """Chooses a group per view from the old policy.

    Args:
        log_probs: `[B, M, C]`, log pi_old.
        K: size of the group (its cap for `nucleus`).
        rule: `top_k`, `sample` or `nucleus`.
        mass: probability that a nucleus must hold, in (0, 1].
        gumbel: `[B, M, C]` standard Gumbel noise, drawn from each image's own generator; `sample` needs it.

    Raises:
        UserError: K is below one or above C, the mass is out of range, or the rule is unknown.
    """
    C = log_probs.shape[-1]
    if not 1 <= K <= C:
        raise UserError(f"A group of {K} candidates cannot be taken from {C} classes; set candidates between 1 and {C}.")
    if rule == "sample":
        if gumbel is None:
            raise ValueError("rule 'sample' needs Gumbel noise of shape [B, M, C].")
        classes = (log_probs + gumbel).topk(K, dim=-1).indices
    elif rule in ("top_k", "nucleus"):
        classes = log_probs.topk(K, dim=-1).indices
    else:
        raise UserError(f"Unknown group rule {rule!r}; choose {', '.join(GROUP_RULES)}.")
    old = log_probs.gather(-1, classes)
    mask = torch.ones_like(old, dtype=torch.bool)
    if rule == "nucleus":
        if not 0 < mass <= 1:
            raise UserError(f"The mass of a nucleus must lie in (0, 1], not {mass}.")
        probs = old.exp()
        mask = probs.cumsum(-1) - probs < mass  # a class stays while the mass before it is short of the target
    return CandidateGroup(classes, old, mask)
