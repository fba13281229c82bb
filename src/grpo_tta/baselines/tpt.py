"""TPT (Shu et al., arXiv 2209.07511): the prompt's context tokens, tuned through the text encoder for one image.

How this differs from the paper: the context is what stands before the label in the task's template, which is its "a
photo of a" (4 tokens) for the field's usual template and keeps a task's own words otherwise; AdamW's decay is torch's
default; the gradient goes first to the text features and then, a chunk of classes at a time, to the tokens, which
bounds memory at any number of classes and changes no number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta.baselines.common import class_log_probs
from grpo_tta.baselines.encoder_entropy import mean_confidence
from grpo_tta.config.checks import check_at_least, check_positive, check_selected
from grpo_tta.engine.distributions import most_confident, take_views
from grpo_tta.engine.interface import Adaptation, Cost, ImageBatch, Method, State, no_cached_blocks
from grpo_tta.engine.loop import gradient_steps
from grpo_tta.engine.optim import Adam
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError


@runtime_checkable
class TunableText(Protocol):
    """What a backbone must offer beside `Backbone` for its prompts to be tuned."""

    def embed_tokens(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """N prompts -> token embeddings `[N, L, W]` and token numbers `[N, L]`."""
        ...

    def encode_embeddings(self, embeddings: Tensor, tokens: Tensor) -> Tensor:
        """`[N, L, W]`, `[N, L]` -> text features, not normalised, `[N, D]`."""
        ...


@final
@dataclass(frozen=True)
class TPTSettings:
    """
    Attributes:
        views: V.
        selected: M, how many views of lowest entropy enter the loss.
        steps: of AdamW.
        learning_rate, weight_decay: of AdamW.
        chunk: prompts encoded in one pass; bounds memory, changes nothing else.
    """

    views: int = 64
    selected: int = 6
    steps: int = 1
    learning_rate: float = 5e-3
    weight_decay: float = 0.01
    chunk: int = 256

    def __post_init__(self) -> None:
        check_selected(self.selected, self.views)
        check_at_least("steps", self.steps, 1)
        check_positive("learning_rate", self.learning_rate)
        check_at_least("weight_decay", self.weight_decay, 0)
        check_at_least("chunk", self.chunk, 1)


@final
class ContextPrompts:
    """The class prompts of a policy as embeddings whose context tokens can be replaced image by image."""

    def __init__(self, policy: Policy) -> None:
        """
        Raises:
            UserError: the backbone cannot tune text, or the template has no words before the label.
        """
        backbone, prompts = policy.backbone, policy.prompts
        if not isinstance(backbone, TunableText):
            raise UserError(f"{policy.backbone.name}: this backbone cannot tune text; use a model from open_clip.")
        self._backbone: TunableText = backbone
        template = prompts.templates[0]
        context = template.split("{}")[0].strip()
        self._embeddings, self._tokens = backbone.embed_tokens([template.format(label) for label in prompts.labels])
        _, alone = backbone.embed_tokens(["", context])
        # Tokens that a prompt shares with the bare context are its context; those shared with nothing at all open it.
        start = _common_prefix(alone[:1], alone[1])
        stop = _common_prefix(self._tokens, alone[1])
        if stop <= start:
            raise UserError(f"Template {template!r} has no words before the label that could be tuned; use another one.")
        self._start, self._stop = start, stop
        self.context = self._embeddings[0, start:stop]  # [n, W]
        self.classes = len(self._tokens)

    def encode(self, context: Tensor, pairs: Tensor) -> Tensor:
        """Unit text features of pairs: contexts `[B, n, W]`, numbers b * C + c `[N]` -> `[N, D]`."""
        images, classes = pairs // self.classes, pairs % self.classes
        words = self._embeddings[classes]
        embeddings = torch.cat([words[:, : self._start], context[images], words[:, self._stop :]], dim=1)
        return F.normalize(self._backbone.encode_embeddings(embeddings, self._tokens[classes]).float(), dim=-1)


def _common_prefix(tokens: Tensor, line: Tensor) -> int:
    """How many leading tokens `[L]` of a line all the rows `[N, L]` share with it."""
    return int((tokens == line).int().cumprod(1).sum(1).min())


def _encode_all(prompts: ContextPrompts, context: Tensor, chunk: int) -> Tensor:
    """Text features `[B, C, D]` without gradient."""
    pairs = torch.arange(len(context) * prompts.classes, device=context.device)
    with torch.no_grad():
        features = torch.cat([prompts.encode(context, part) for part in pairs.split(chunk)])
    return features.unflatten(0, (len(context), -1))


def _pull_back(prompts: ContextPrompts, context: Tensor, gradient: Tensor, chunk: int) -> Tensor:
    """Gradient with respect to the contexts `[B, n, W]`, given that of the text features `[B, C, D]`."""
    total = torch.zeros_like(context)
    pairs = torch.arange(gradient.shape[0] * gradient.shape[1], device=context.device)
    for part in pairs.split(chunk):
        with torch.enable_grad():
            features = prompts.encode(context, part)
            total += torch.autograd.grad(features, context, gradient.flatten(0, 1)[part])[0]
    return total


def tpt(policy: Policy, batch: ImageBatch, settings: TPTSettings, also: Callable[[Tensor], Tensor] | None = None) -> Adaptation:
    """Predicts view 0 with the tuned prompts; V forward passes through the visual encoder.

    Args:
        also: what else is raised, of the unit text features: `[B, C, D]` -> `[B]`.

    `Cost` counts image passes alone. Each image also costs C * (2 * steps + 1) forward and C * steps backward passes
    of one prompt through the text encoder (the extra forward pass of a step is the price of bounded memory).
    """
    s = settings
    encoded = batch.encoded
    views = encoded.log_probs[:, : s.views]
    selected = most_confident(views, s.selected)
    chosen = take_views(encoded.features, selected)  # [B, M, D]
    prompts = ContextPrompts(policy)
    context = prompts.context.expand(len(views), *prompts.context.shape).clone().requires_grad_()
    # all images start from the same context
    first = _encode_all(prompts, prompts.context[None], s.chunk).expand(len(views), -1, -1)

    def gradients(params: Mapping[str, Tensor]) -> Sequence[Tensor]:
        text = first if params["context"] is context else _encode_all(prompts, params["context"], s.chunk)
        with torch.enable_grad():
            leaf = text.detach().clone().requires_grad_()
            gain = mean_confidence(class_log_probs(policy, chosen, leaf))
            if also is not None:
                gain = gain + also(leaf)
            (gradient,) = torch.autograd.grad(gain.sum(), leaf)
        return [_pull_back(prompts, params["context"], gradient, s.chunk)]

    optimizer = Adam(s.learning_rate, weight_decay=s.weight_decay)
    params = gradient_steps({"context": context}, gradients, optimizer.start(), s.steps)
    text = _encode_all(prompts, params["context"], s.chunk)
    after = class_log_probs(policy, encoded.features[:, :1], text)[:, 0]
    return Adaptation(views[:, 0], after, Cost(float(s.views)))


def tpt_method(settings: TPTSettings, name: str = "tpt") -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return tpt(policy, batch, settings), state

    return Method(name, "episodic", "none", settings.views, 0, settings, no_cached_blocks, run, reads_text=True)
