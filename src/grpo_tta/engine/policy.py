"""The policy: a frozen backbone and class prompts, read as a distribution over classes for each view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta.backbones.base import Backbone, HasClassRows
from grpo_tta.backbones.prompts import ClassPrompts
from grpo_tta.engine.parameters import TunableParameters
from grpo_tta.engine.per_image import PerImage
from grpo_tta.errors import UserError


@final
class Policy:
    """pi(c | v) = softmax_c(s cos(f(v), t_c)), with f either frozen or with each image's own parameters.

    For an image classifier pi(c | v) = softmax_c(<w_c, f(v)> + b_c): rows `[w_c, b_c]` stand in for text features, and
    neither they nor the features `[f, 1]` are normalised.

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
        self.has_text = not isinstance(backbone, HasClassRows)
        self.backbone = backbone
        self.prompts = prompts
        self.text_features = features.to(backbone.device)

    @property
    def classes(self) -> int:
        return len(self.text_features)

    def log_probs(self, image_features: Tensor) -> Tensor:
        """Log-probabilities of features that are not normalised yet: `[..., D]` -> `[..., C]` float32."""
        features = self.scaled(image_features)
        return (self.backbone.logit_scale * features @ self.text_features.T).log_softmax(-1)

    def scaled(self, features: Tensor) -> Tensor:
        """Features as logits read them, `[..., D]` float32: of unit length, or a classifier's as they are."""
        return F.normalize(features.float(), dim=-1) if self.has_text else features.float()

    def directions(self, features: Tensor) -> Tensor:
        """Scaled features, or class rows, as unit vectors that can be compared by cosine; a classifier's without the entry of
        its bias: `[..., D]` -> `[..., D]` or `[..., D - 1]`."""
        return features if self.has_text else F.normalize(features[..., :-1], dim=-1)

    def adapted_features(self, tokens: Tensor, tunable: TunableParameters, params: Mapping[str, Tensor]) -> Tensor:
        """The blocks from the first tuned one on, with per-image parameters.

        Args:
            tokens: `[B, M, T, W]` that enter the first tuned block.
            tunable: which parameters are tuned.
            params: their values, each with a leading image axis.

        Returns:
            Features, not normalised, `[B, M, D]`.
        """
        B, M = tokens.shape[:2]
        with PerImage(tunable, params):
            x = tokens.flatten(0, 1)
            for block in self.backbone.blocks[tunable.first_block :]:
                x = block(x)
            return self.backbone.head(x).unflatten(0, (B, M))

    def adapted(self, tokens: Tensor, tunable: TunableParameters, params: Mapping[str, Tensor]) -> Tensor:
        """The same as log-probabilities, log pi_theta: `[B, M, T, W]` -> `[B, M, C]`."""
        return self.log_probs(self.adapted_features(tokens, tunable, params))
