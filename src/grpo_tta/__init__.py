"""grpo-tta: test-time adaptation of CLIP-like models to one unlabelled image by Group Relative Policy Optimization.

    from grpo_tta import GRPOTTA
    GRPOTTA("nano-clip", ["star", "heart"]).predict("image.png").label

Names are imported on first use, so that `import grpo_tta` and `grpo-tta --help` do not wait for torch. Modules of the package
import each other's modules, never these names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_tta.backbones.base import load_backbone
    from grpo_tta.backbones.catalogue import known_models as list_models
    from grpo_tta.classifier import GRPOTTA, Explanation, Prediction
    from grpo_tta.drop_in import pipeline
    from grpo_tta.engine.interface import Method
    from grpo_tta.errors import UserError
    from grpo_tta.images.views import ViewSettings
    from grpo_tta.method.grpo import adapt
    from grpo_tta.method.rewards import Reward
    from grpo_tta.method.settings import GRPOSettings
    from grpo_tta.method.types import CandidateGroup, Reference

    __version__: str

_HOMES = {
    "GRPOTTA": "classifier:GRPOTTA",
    "CandidateGroup": "method.types:CandidateGroup",
    "Explanation": "classifier:Explanation",
    "GRPOSettings": "method.settings:GRPOSettings",
    "Method": "engine.interface:Method",
    "Prediction": "classifier:Prediction",
    "Reference": "method.types:Reference",
    "Reward": "method.rewards:Reward",
    "UserError": "errors:UserError",
    "ViewSettings": "images.views:ViewSettings",
    "adapt": "method.grpo:adapt",
    "list_models": "backbones.catalogue:known_models",
    "load_backbone": "backbones.base:load_backbone",
    "pipeline": "drop_in:pipeline",
}
__all__ = [
    "GRPOTTA",
    "CandidateGroup",
    "Explanation",
    "GRPOSettings",
    "Method",
    "Prediction",
    "Reference",
    "Reward",
    "UserError",
    "ViewSettings",
    "__version__",
    "adapt",
    "list_models",
    "load_backbone",
    "pipeline",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("grpo-tta")
    if name not in _HOMES:
        raise AttributeError(f"module 'grpo_tta' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(f"grpo_tta.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
