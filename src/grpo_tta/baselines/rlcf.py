"""RLCF (Zhao et al., arXiv 2305.18010): CLIP score as the reward for a policy gradient on the visual encoder.

Per view, reward_c = relu(2.5 cos(g(v), t_c)) - mean over the top-K classes, with g the reward model; the loss is the
mean of reward * cross-entropy over views and classes. How this differs from the paper: its reward model is a frozen
CLIP ViT-L/14, which is here a teacher that has to be named; without one the adapted model's own frozen weights score.
A teacher sees the same crops, undone from the model's normalisation and resized to its own input. The momentum buffer
of the paper's continual setting is left out; every image starts afresh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta.backbones.base import Backbone
from grpo_tta.baselines.common import ENCODER_PARTS, EncoderPart, encoder_cached_blocks, tune_encoder
from grpo_tta.config.checks import check_at_least, check_choice, check_positive, check_selected
from grpo_tta.engine.distributions import most_confident, take_views
from grpo_tta.engine.encode import encode_views
from grpo_tta.engine.interface import Adaptation, Cost, ImageBatch, Method, RewardModel, State
from grpo_tta.engine.optim import Adam
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError


@final
@dataclass(frozen=True)
class RLCFSettings:
    """
    Attributes:
        views: V.
        selected: M, how many views of lowest entropy enter the loss; chosen once.
        candidates: K, or all classes where there are fewer; the top K of the policy as it stands at each step.
        tuned: `norm` (affine of the norms) or `whole` (every weight of the visual encoder).
        steps: of AdamW.
        learning_rate, weight_decay: of AdamW.
        reward_scale: factor before the cosine.
    """

    views: int = 64
    selected: int = 6
    candidates: int = 3
    tuned: EncoderPart = "norm"
    steps: int = 3
    learning_rate: float = 1e-5
    weight_decay: float = 5e-4
    reward_scale: float = 2.5

    def __post_init__(self) -> None:
        check_selected(self.selected, self.views)
        check_at_least("candidates", self.candidates, 1)
        check_choice("part of the encoder", self.tuned, ENCODER_PARTS)
        check_at_least("steps", self.steps, 1)
        check_positive("reward_scale", self.reward_scale)
        self.optimizer()

    def optimizer(self) -> Adam:
        return Adam(self.learning_rate, weight_decay=self.weight_decay)


def clip_reward(cosine: Tensor, scale: float) -> Tensor:
    """relu(scale * cos) minus its mean over the group: `[..., K]` -> `[..., K]`."""
    score = (scale * cosine).relu()
    return score - score.mean(-1, keepdim=True)


def rewarded_log_likelihood(log_probs: Tensor, cosine: Tensor, K: int, scale: float) -> Tensor:
    """mean over M views and their top-K classes of reward * log p, the negative of RLCF's loss.

    Args:
        log_probs: `[B, M, C]`, carries the gradient.
        cosine: `[B, M, C]`, of the reward model.

    Returns:
        `[B]`.
    """
    classes = log_probs.detach().topk(K, dim=-1).indices  # [B, M, K]
    return (clip_reward(cosine.gather(-1, classes), scale) * log_probs.gather(-1, classes)).mean((1, 2))


def check_teacher(policy: Policy, teacher: Policy) -> None:
    """
    Raises:
        UserError: the two do not hold the same classes in the same order.
    """
    if policy.prompts.labels != teacher.prompts.labels:
        raise UserError("The teacher holds other classes than the policy; make its prompts from the same labels.")


def cosines(policy: Policy, features: Tensor) -> Tensor:
    """cos(f, t_c) of scaled features `[..., D]`: `[..., C]`."""
    return policy.directions(features) @ policy.directions(policy.text_features).T


@torch.no_grad()
def teacher_cosine(policy: Policy, teacher: Policy, views: Tensor) -> Tensor:
    """cos(g(v), t_c) of a teacher, which reads the views `[B, M, 3, S, S]` in its own size and normalisation: `[B, M, C]`."""
    ours, theirs = policy.backbone, teacher.backbone
    pixels = views.flatten(0, 1) * ours.std[:, None, None] + ours.mean[:, None, None]
    if theirs.image_size != ours.image_size:
        size = (theirs.image_size, theirs.image_size)
        pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)
    pixels = ((pixels.to(theirs.device) - theirs.mean[:, None, None]) / theirs.std[:, None, None])[None]
    features = encode_views(teacher, pixels, pixels[:, :0]).features[0]
    return cosines(teacher, features).unflatten(0, views.shape[:2]).to(views.device)


def rlcf(policy: Policy, batch: ImageBatch, settings: RLCFSettings, teacher: Policy | None = None) -> Adaptation:
    """Predicts view 0 after the steps; V + steps * M + 1 forward and steps * M backward passes. A teacher adds M forward
    passes, each counted as one although its encoder may be the larger.

    Raises:
        UserError: the teacher holds other classes.
    """
    s = settings
    encoded = batch.encoded
    views = encoded.log_probs[:, : s.views]
    selected = most_confident(views, s.selected)
    if teacher is None:
        cosine = cosines(policy, take_views(encoded.features, selected))  # [B, M, C]
    else:
        check_teacher(policy, teacher)
        cosine = teacher_cosine(policy, teacher, take_views(batch.views, selected))
    K = min(s.candidates, policy.classes)

    def gain(log_probs: Tensor, images: slice) -> Tensor:
        return rewarded_log_likelihood(log_probs, cosine[images], K, s.reward_scale)

    after = tune_encoder(policy, batch, selected, gain, s.tuned, s.steps, s.optimizer())
    passes = s.steps * s.selected
    scored = 0 if teacher is None else s.selected
    return Adaptation(views[:, 0], after, Cost(s.views + scored + passes + 1.0, passes))


def rlcf_method(settings: RLCFSettings, teacher: Policy | None = None, name: str = "rlcf") -> Method:
    def cached_blocks(backbone: Backbone) -> Sequence[int]:
        return encoder_cached_blocks(backbone, settings.tuned)

    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return rlcf(policy, batch, settings, teacher), state

    reward_model: RewardModel = "own" if teacher is None else "teacher"
    named = None if teacher is None else teacher.backbone.name
    return Method(name, "episodic", reward_model, settings.views, 0, settings, cached_blocks, run, named)
