"""The affine of a text encoder's norms, tuned as one set for all class prompts: the text half of BATCLIP.

Sizes: C classes, H templates, D feature width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from grpo_tta.baselines.tpt import TunableText
from grpo_tta.engine.parameters import TunableParameters
from grpo_tta.engine.per_image import PerImage
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError


@final
class PromptNorms:
    """The class prompts of a policy, encoded with other values for the affine of the text encoder's layer norms.

    Attributes:
        tunable: the norms' parameters, named `text.0.weight`, `text.0.bias`, ... in the order in which they are read.
    """

    def __init__(self, policy: Policy) -> None:
        """
        Raises:
            UserError: the backbone has no text encoder that can be tuned.
        """
        backbone, prompts = policy.backbone, policy.prompts
        if not isinstance(backbone, TunableText):
            raise UserError(f"{policy.backbone.name}: this backbone cannot tune text; use a model from open_clip.")
        self._backbone: TunableText = backbone
        self._templates = len(prompts.templates)
        self._embeddings, self._tokens = backbone.embed_tokens(
            [template.format(label) for label in prompts.labels for template in prompts.templates]
        )
        self.classes = len(prompts.labels)
        with torch.no_grad(), _NormWatch() as watch:
            backbone.encode_embeddings(self._embeddings[:1], self._tokens[:1])
        replaced = {
            f"text.{number}.{leaf}": parameter
            for number, norm in enumerate(watch.norms)
            for leaf, parameter in zip(("weight", "bias"), norm, strict=True)
            if isinstance(parameter, nn.Parameter)
        }
        if not replaced:
            raise UserError(f"{policy.backbone.name}: its text encoder has no layer norms to tune; use another method.")
        self.tunable = TunableParameters(0, replaced, {}, {name: parameter.shape for name, parameter in replaced.items()})

    def encode(self, params: Mapping[str, Tensor], classes: Tensor) -> Tensor:
        """normalise(mean over templates of the unit text features) of some classes `[n]`: `[n, D]`.

        Args:
            params: of `tunable`, each with an image axis of one.
            classes: numbers of the classes.
        """
        rows = (classes[:, None] * self._templates + torch.arange(self._templates, device=classes.device)).flatten()
        with PerImage(self.tunable, params):
            features = self._backbone.encode_embeddings(self._embeddings[rows], self._tokens[rows])
        each = F.normalize(features.float(), dim=-1).unflatten(0, (len(classes), -1))  # [n, H, D]
        return F.normalize(each.mean(1), dim=-1)


@final
class _NormWatch(TorchFunctionMode):
    """Notes weight and bias of every layer norm that is called, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.norms: list[tuple[Tensor | None, Tensor | None]] = []

    def _layer_norm(
        self, input: Tensor, normalized_shape: list[int], weight: Tensor | None = None, bias: Tensor | None = None, *rest: float
    ) -> None:
        self.norms.append((weight, bias))

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.layer_norm:
            known = {key: value for key, value in (kwargs or {}).items() if key != "eps"}
            self._layer_norm(*args, **known)
        return func(*args, **(kwargs or {}))


# Kept per policy: tokens and norms belong to the classes, and each minibatch of a stream would look them up again.
_NORMS: WeakKeyDictionary[Policy, PromptNorms] = WeakKeyDictionary()


def prompt_norms(policy: Policy) -> PromptNorms:
    """The policy's own `PromptNorms`, made once."""
    if policy not in _NORMS:
        _NORMS[policy] = PromptNorms(policy)
    return _NORMS[policy]
