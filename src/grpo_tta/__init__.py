"""grpo-tta: test-time adaptation of CLIP-like models to one unlabelled image by Group Relative Policy Optimization.

    from grpo_tta import GRPOTTA
    GRPOTTA("nano-clip", ["star", "heart"]).predict("image.png").label

Names are imported on first use, so that `import grpo_tta` and `grpo-tta --help` do not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_tta.backbones.base import load_backbone
    from grpo_tta.classifier import GRPOTTA, Explanation, Prediction
    from grpo_tta.drop_in import pipeline
    from grpo_tta.errors import UserError
    from grpo_tta.images.views import ViewSettings
    from grpo_tta.method.rewards import RewardWeights
    from grpo_tta.method.settings import GRPOSettings

_HOMES = {
    "GRPOTTA": "classifier",
    "Explanation": "classifier",
    "GRPOSettings": "method.settings",
    "Prediction": "classifier",
    "RewardWeights": "method.rewards",
    "UserError": "errors",
    "ViewSettings": "images.views",
    "load_backbone": "backbones.base",
    "pipeline": "drop_in",
}
__all__ = [
    "GRPOTTA",
    "Explanation",
    "GRPOSettings",
    "Prediction",
    "RewardWeights",
    "UserError",
    "ViewSettings",
    "load_backbone",
    "pipeline",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'grpo_tta' has no attribute {name!r}")
    return getattr(import_module(f"grpo_tta.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
