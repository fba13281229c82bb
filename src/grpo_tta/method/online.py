"""GRPO-TTA beyond one image: one set of parameters for a batch (forgotten after it) or for a whole stream.

The policy step is that of `adapt`, shared: the tuned parameters are one set for all images of a piece, moved by Adam on the
mean of their objectives, drawn back towards the frozen model after each step. The dispersion reward is the *stream prior*,
the running mean of what the frozen model's views say together. It assumes a stream in which no class is all that is seen,
so it is guarded (see `stream_prior`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, final

import torch
from torch import Tensor

from grpo_tta.backbones.base import Backbone
from grpo_tta.engine.interface import ImageBatch, Method, State
from grpo_tta.engine.minibatches import join, pieces
from grpo_tta.engine.optim import Update, load_shared, save_shared
from grpo_tta.engine.parameters import make_plan
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError
from grpo_tta.method.grpo import Adaptation, Cost, policy_gain, propose_from, refer, take_views
from grpo_tta.method.rewards import RewardWeights, view_weights, weighted_log_mean
from grpo_tta.method.settings import GRPOSettings

_PRIOR = "prior."


@final
@dataclass(frozen=True)
class StreamSettings:
    """
    Attributes:
        grpo: the episode's settings; `rewards.stream` is the weight of the stream prior in the reward, and
            `prior_weight` its weight in the prediction. `prediction`, `adapted_prior` and `max_kl` are not used.
        update_size: images of a step.
        anchor: share of the way back to the frozen model after each piece.
        pseudo_images: how many images' worth of a uniform prior the running mean starts with.
        guard: a class is held back at most `guard` times as much as the content-free copies favour it; None for no
            guard.
        protocol: `online` carries parameters and prior along the stream; `batch` forgets both after each piece.
    """

    grpo: GRPOSettings = field(
        default_factory=lambda: GRPOSettings(
            rewards=RewardWeights(content_free=0.0, stream=0.75),
            optimizer="adam",
            learning_rate=1e-3,
            prior_weight=0.75,
        )
    )
    update_size: int = 32
    anchor: float = 0.01
    pseudo_images: float = 16.0
    guard: float | None = 1.0
    protocol: Literal["batch", "online"] = "online"

    def __post_init__(self) -> None:
        if self.update_size < 1:
            raise UserError(f"update_size must be at least 1, not {self.update_size}.")
        if not 0 <= self.anchor <= 1:
            raise UserError(f"anchor is a share between 0 and 1, not {self.anchor}.")
        if self.pseudo_images <= 0:
            raise UserError(f"pseudo_images must be positive, not {self.pseudo_images}.")
        if self.guard is not None and self.guard <= 0:
            raise UserError(f"guard must be positive or None, not {self.guard}.")
        if self.grpo.stop is not None:
            raise UserError("A stream reads all views of every image; set stop to None.")
        if self.guard is not None and self.grpo.views.content_free == 0:
            raise UserError("The guard reads the content-free copies; set copies to at least 1, or guard to None.")


def stream_prior(image_sum: Tensor, copy_sum: Tensor, count: float, settings: StreamSettings) -> Tensor:
    """The log prior over classes: sums `[C]` of predictions over `count` images and over their copies -> `[C]`.

    q = (sum of predictions + n0 / C) / (count + n0), and the same for the copies. A stream may truly hold more of one
    class than of others; the copies show no object, so what they favour is bias. Hence the guard
    q'_c = min(q_c, max(guard * copies_c, 1 / C)), renormalised: a class that is merely frequent is not held back for it.
    """
    C, n0 = len(image_sum), settings.pseudo_images
    prior = (image_sum + n0 / C) / (count + n0)
    if settings.guard is not None:
        copies = (copy_sum + n0 / C) / (count + n0)
        prior = torch.minimum(prior, (settings.guard * copies).clamp_min(1 / C))
    return (prior / prior.sum()).log()


def stream_step(policy: Policy, batch: ImageBatch, settings: StreamSettings, state: State) -> tuple[Adaptation, State]:
    """Adapts the shared parameters to one piece of N images and predicts them; an empty state starts afresh."""
    grpo, seen, device = settings.grpo, batch.seen, batch.views.device
    N, M = len(batch.image_ids), grpo.selected
    plan = make_plan(policy.backbone, grpo.tuned, grpo.last_blocks, grpo.rank)
    update = Update(grpo.optimizer, grpo.learning_rate, grpo.max_gradient_norm)
    start = plan.start(1)
    tuned = load_shared(state, start, update)
    zeros = torch.zeros(policy.classes, device=device)
    image_sum, copy_sum, count = zeros, zeros, 0.0
    if state:
        image_sum, copy_sum = (state[_PRIOR + key].to(device) for key in ("images", "copies"))
        count = float(state[_PRIOR + "count"])

    # the prior: what the frozen model has predicted so far, this piece included
    selected, reference = refer(policy, seen, grpo)
    image_sum = image_sum + reference.consensus.exp().sum(0)
    if grpo.views.content_free:
        copy_sum = copy_sum + seen.log_probs[:, seen.views :].exp().mean(1).sum(0)
    count += N
    log_prior = stream_prior(image_sum, copy_sum, count, settings).expand(N, -1)
    reference = replace(reference, stream=log_prior)
    proposal = propose_from(selected, reference, grpo, image_ids=batch.image_ids, seed=batch.seed)

    # policy steps on shared parameters: to the plan, the piece's views are the views of a single image
    tokens = take_views(seen.tokens[plan.first_block], proposal.selected)  # [N, M, T, W]
    together = tokens.flatten(0, 1)[None]  # [1, N * M, T, W]
    any_step = proposal.stepped.any()[None]
    for _ in range(grpo.steps):
        with torch.enable_grad():
            new = policy.adapted(together, plan, tuned)[0].unflatten(0, (N, M))
            gain, _, _ = policy_gain(new, proposal, grpo)
            gradients = torch.autograd.grad(gain.mean(), list(tuned.values()))
        tuned, _ = update.ascend(tuned, gradients, any_step)

    # predict with the moved parameters and the same prior
    with torch.no_grad():
        adapted = policy.adapted(together, plan, tuned)[0].unflatten(0, (N, M))
        opinion = weighted_log_mean(adapted, view_weights(adapted, grpo.view_sharpness))
        after = (opinion - grpo.prior_weight * log_prior).log_softmax(-1)
    suffix = 1 - plan.first_block / len(policy.backbone.blocks)
    cost = Cost(seen.log_probs.shape[1] + suffix * (grpo.steps + 1) * M, suffix * grpo.steps * M)
    adaptation = Adaptation(seen.log_probs[:, 0], after, cost)
    if settings.protocol == "batch":
        return adaptation, {}
    anchored = {name: value.detach().lerp(start[name].detach(), settings.anchor) for name, value in tuned.items()}
    new_state = save_shared(anchored, update)
    new_state |= {_PRIOR + "images": image_sum, _PRIOR + "copies": copy_sum, _PRIOR + "count": torch.tensor(count)}
    return adaptation, new_state


def stream_method(settings: StreamSettings, name: str) -> Method:
    """`grpo-tta-online` or `grpo-tta-batch`, by the settings' protocol."""
    grpo = settings.grpo

    def cuts(backbone: Backbone) -> Sequence[int]:
        return (make_plan(backbone, grpo.tuned, grpo.last_blocks, grpo.rank).first_block,)

    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        done = []
        for piece in pieces(batch, settings.update_size):
            adaptation, state = stream_step(policy, piece, settings, state)
            done.append(adaptation)
        return join(done), state

    return Method(name, settings.protocol, "own", grpo.views.views, grpo.views.content_free, settings, cuts, run)
