"""The policy: a frozen backbone and class prompts, read as a distribution over classes for each view."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta.backbones.base import Backbone
from grpo_tta.backbones.prompts import ClassPrompts
from grpo_tta.engine.parameters import PerImage, Plan
from grpo_tta.errors import UserError


@final
@dataclass(frozen=True)
class EncodedViews:
    """What the frozen model sees in B images: N = V views followed by P content-free copies.

    Attributes:
        features: `[B, N, D]`, unit length.
        log_probs: `[B, N, C]`, log pi_0.
        tokens: block index -> the tokens that enter it, `[B, N, T, W]`.
        views: V.
    """

    features: Tensor
    log_probs: Tensor
    tokens: Mapping[int, Tensor]
    views: int

    def first(self, views: int, copies: int) -> EncodedViews:
        """The same with fewer views and copies: the first of each.

        Raises:
            ValueError: there are not that many.
        """
        have = self.log_probs.shape[1] - self.views
        if views > self.views or copies > have:
            raise ValueError(f"{views} views and {copies} copies were asked of {self.views} and {have}.")
        if (views, copies) == (self.views, have):
            return self

        def take(x: Tensor) -> Tensor:
            return torch.cat([x[:, :views], x[:, self.views : self.views + copies]], dim=1)

        tokens = {cut: take(kept) for cut, kept in self.tokens.items()}
        return EncodedViews(take(self.features), take(self.log_probs), tokens, views)


@final
class Policy:
    """pi(c | v) = softmax_c(s cos(f(v), t_c)), with f either frozen or with each image's own parameters.

    SigLIP scores by sigmoid, but its logits rank and normalise over a given set of classes in the same way: the bias it
    adds is common to all classes and cancels.
    """

    def __init__(self, backbone: Backbone, prompts: ClassPrompts) -> None:
        """
        Args:
            backbone: the frozen model.
            prompts: the classes, with their text features.

        Raises:
            UserError: the text features are not `[C, D]` or hold NaN.
        """
        features = prompts.features
        if features.ndim != 2 or not torch.isfinite(features).all():
            raise UserError("Text features must be a finite matrix [C, D] of unit rows.")
        self.backbone = backbone
        self.prompts = prompts
        self.text_features = features.to(backbone.device)

    @property
    def classes(self) -> int:
        return len(self.text_features)

    def log_probs(self, image_features: Tensor) -> Tensor:
        """Log-probabilities of features that are not normalised yet: `[..., D]` -> `[..., C]` float32."""
        features = F.normalize(image_features.float(), dim=-1)
        return (self.backbone.logit_scale * features @ self.text_features.T).log_softmax(-1)

    @torch.no_grad()
    def observe(self, views: Tensor, copies: Tensor, cuts: Collection[int] = (), *, chunk: int = 256) -> EncodedViews:
        """One pass of the frozen model over all views and copies, keeping the tokens that enter the blocks in `cuts`.

        Args:
            views: `[B, V, 3, S, S]`.
            copies: `[B, P, 3, S, S]`, P may be zero.
            cuts: blocks whose input is kept for adaptation; the number of blocks stands for the input of the head.
            chunk: views per pass; bounds memory, changes nothing else.

        Raises:
            UserError: the model returned NaN or infinite features.
        """
        B, V = views.shape[:2]
        features: list[Tensor] = []
        kept: dict[int, list[Tensor]] = {cut: [] for cut in cuts}
        for part in torch.cat([views, copies], dim=1).flatten(0, 1).split(chunk):
            tokens = self.backbone.stem(part)
            for index, block in enumerate(self.backbone.blocks):
                if index in kept:
                    kept[index].append(tokens)
                tokens = block(tokens)
            if len(self.backbone.blocks) in kept:
                kept[len(self.backbone.blocks)].append(tokens)
            features.append(F.normalize(self.backbone.head(tokens).float(), dim=-1))
        joined = torch.cat(features).unflatten(0, (B, -1))
        if not torch.isfinite(joined).all():
            raise UserError(f"{self.backbone.name} returned NaN or infinite features; its weights or the input are damaged.")
        cut_tokens = {cut: torch.cat(parts).unflatten(0, (B, -1)) for cut, parts in kept.items()}
        return EncodedViews(joined, self.log_probs(joined), cut_tokens, V)

    def adapted_features(self, tokens: Tensor, plan: Plan, tuned: Mapping[str, Tensor]) -> Tensor:
        """The suffix with per-image parameters: `[B, M, T, W]` -> features, not normalised, `[B, M, D]`."""
        B, M = tokens.shape[:2]
        with PerImage(plan, tuned):
            x = tokens.flatten(0, 1)
            for block in self.backbone.blocks[plan.first_block :]:
                x = block(x)
            return self.backbone.head(x).unflatten(0, (B, M))

    def adapted(self, tokens: Tensor, plan: Plan, tuned: Mapping[str, Tensor]) -> Tensor:
        """The same as log-probabilities: `[B, M, T, W]` -> `[B, M, C]`."""
        return self.log_probs(self.adapted_features(tokens, plan, tuned))
