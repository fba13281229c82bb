"""The test stage of FGA, flatness-guided adaptation (Li et al., ICLR 2026, arXiv 2501.18864): views whose prediction barely
changes when the prompt does, vote.

With the prompt's context p and R random directions e_r of length one, a view has the score

    H(p) + lambda max_r ( H(p + rho e_r) - H(p) ),

H being the entropy of its prediction. The s views of the lowest score vote. Nothing is tuned.

This is not FGA: its other stage trains the prompt on 16 labelled images of each class towards a flat minimum, which a
comparison without labels cannot have. Here p is the task's own template, so published figures of FGA (and of its test stage,
on prompts trained without flatness) do not apply. lambda = 1 and rho = 0.5 are the paper's. What was not available to us are
R and s (the defaults are this project's: s = 10 % as in TPT), and how a tie of votes is broken (here by the voters' mean
prediction).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta.baselines.common import class_log_probs
from grpo_tta.baselines.tpt import ContextPrompts
from grpo_tta.config.checks import check_at_least, check_selected
from grpo_tta.engine.distributions import entropy, take_views
from grpo_tta.engine.interface import Adaptation, Cost, ImageBatch, Method, State, no_cached_blocks
from grpo_tta.engine.policy import Policy
from grpo_tta.images.seeds import image_generator

_TIE = 1e-3  # what the mean prediction counts beside a vote

# Kept per policy: the perturbed prompts belong to the classes, not to an image.
_PERTURBED: WeakKeyDictionary[Policy, dict[tuple[int, int, float], Tensor]] = WeakKeyDictionary()


@final
@dataclass(frozen=True)
class FGASettings:
    """
    Attributes:
        views: V.
        selected: s, how many views of the lowest score vote.
        perturbations: R.
        radius: rho, length of a perturbation over all context tokens together.
        sharpness: lambda, weight of the entropy's largest rise.
        chunk: prompts encoded in one pass; bounds memory, changes nothing else.
    """

    views: int = 64
    selected: int = 6
    perturbations: int = 10
    radius: float = 0.5
    sharpness: float = 1.0
    chunk: int = 256

    def __post_init__(self) -> None:
        check_selected(self.selected, self.views)
        check_at_least("perturbations", self.perturbations, 1)
        check_at_least("radius", self.radius, 0)
        check_at_least("sharpness", self.sharpness, 0)
        check_at_least("chunk", self.chunk, 1)


@torch.no_grad()
def perturbed_text(policy: Policy, settings: FGASettings, seed: int) -> Tensor:
    """Unit text features of the template itself and of R perturbed ones, `[1 + R, C, D]`; the same for all images of a run.

    Raises:
        UserError: the backbone cannot tune text, or the template has no words before the label.
    """
    R, key = settings.perturbations, (seed, settings.perturbations, settings.radius)
    kept = _PERTURBED.setdefault(policy, {})
    if key not in kept:
        prompts = ContextPrompts(policy)
        noise = torch.randn((R, *prompts.context.shape), generator=image_generator(seed, "", "perturbed prompts"))
        directions = F.normalize(noise.flatten(1), dim=-1).view_as(noise).to(prompts.context)
        contexts = torch.cat([prompts.context[None], prompts.context + settings.radius * directions])
        pairs = torch.arange((1 + R) * prompts.classes, device=contexts.device)
        features = torch.cat([prompts.encode(contexts, part) for part in pairs.split(settings.chunk)])
        kept[key] = features.unflatten(0, (1 + R, -1))
    return kept[key]


def flatness_scores(entropies: Tensor, weight: float) -> Tensor:
    """H_0 + weight * max_r (H_r - H_0), low where the prompt may change: `[1 + R, ...]` -> `[...]`."""
    return entropies[0] + weight * (entropies[1:] - entropies[0]).amax(0)


def fga(policy: Policy, batch: ImageBatch, settings: FGASettings) -> Adaptation:
    """Shares of the votes as probabilities; V forward passes, and C * (1 + R) passes of one prompt once per task."""
    encoded = batch.encoded
    text = perturbed_text(policy, settings, batch.seed)
    features = encoded.features[:, : encoded.views]
    plain = class_log_probs(policy, features, text[0])  # [B, V, C]
    entropies = torch.stack([entropy(plain), *(entropy(class_log_probs(policy, features, other)) for other in text[1:])])
    chosen = flatness_scores(entropies, settings.sharpness).topk(settings.selected, dim=1, largest=False).indices
    voters = take_views(plain, chosen)  # [B, s, C]
    votes = F.one_hot(voters.argmax(-1), voters.shape[-1]).to(voters).mean(1)
    shares = (votes + _TIE * voters.exp().mean(1)).clamp_min(1e-12)  # so that log-probabilities stay finite
    after = (shares / shares.sum(-1, keepdim=True)).log()
    return Adaptation(encoded.log_probs[:, 0], after, Cost(float(encoded.views)))


def fga_method(settings: FGASettings, name: str = "fga-test-stage") -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return fga(policy, batch, settings), state

    return Method(name, "episodic", "none", settings.views, 0, settings, no_cached_blocks, run, reads_text=True)
