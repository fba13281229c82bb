"""The policy: a frozen tower and class prompts, read as a distribution over classes for each view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta.errors import UserError
from grpo_tta.towers import Tower
from grpo_tta.tuning import PerImage, Plan


@final
class Policy:
    """pi(c | v) = softmax_c(s cos(f(v), t_c)), with f either frozen or with each image's own parameters.

    SigLIP scores by sigmoid, but its logits rank and normalise over a given set of classes in the same way: the bias it
    adds is common to all classes and cancels.
    """

    def __init__(self, tower: Tower, text_features: Tensor) -> None:
        """
        Args:
            tower: the frozen model.
            text_features: `[C, D]`, unit length.

        Raises:
            UserError: the text features are not `[C, D]` or hold NaN.
        """
        if text_features.ndim != 2 or not torch.isfinite(text_features).all():
            raise UserError("Text features must be a finite matrix [C, D] of unit rows.")
        self.tower = tower
        self.text_features = text_features.to(tower.device)

    @property
    def classes(self) -> int:
        return len(self.text_features)

    def log_probs(self, image_features: Tensor) -> Tensor:
        """Log-probabilities of features that are not normalised yet: `[..., D]` -> `[..., C]` float32."""
        features = F.normalize(image_features.float(), dim=-1)
        return (self.tower.logit_scale * features @ self.text_features.T).log_softmax(-1)

    @torch.no_grad()
    def reference(self, pixels: Tensor, first_block: int, chunk: int) -> tuple[Tensor, Tensor]:
        """One pass of the frozen model, keeping the tokens that enter `first_block`.

        Args:
            pixels: `[N, 3, S, S]`.
            first_block: where the suffix begins.
            chunk: views per pass; bounds memory, changes nothing else.

        Returns:
            Log-probabilities `[N, C]` and tokens `[N, T, W]`.

        Raises:
            UserError: the model returned NaN or infinite features.
        """
        log_probs, kept = [], []
        for part in pixels.split(chunk):
            tokens = self.tower.prefix(part)
            for block in self.tower.blocks[:first_block]:
                tokens = block(tokens)
            kept.append(tokens)
            for block in self.tower.blocks[first_block:]:
                tokens = block(tokens)
            features = self.tower.head(tokens)
            if not torch.isfinite(features).all():
                raise UserError(f"{self.tower.name} returned NaN or infinite features; its weights or the input are damaged.")
            log_probs.append(self.log_probs(features))
        return torch.cat(log_probs), torch.cat(kept)

    def adapted(self, tokens: Tensor, plan: Plan, tuned: Mapping[str, Tensor]) -> Tensor:
        """The suffix with per-image parameters: `[B, M, T, W]` -> log-probabilities `[B, M, C]`."""
        B, M = tokens.shape[:2]
        with PerImage(plan, tuned):
            x = tokens.flatten(0, 1)
            for block in self.tower.blocks[plan.first_block :]:
                x = block(x)
            features = self.tower.head(x)
        return self.log_probs(features).unflatten(0, (B, M))
