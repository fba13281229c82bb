"""Settings of GRPO-TTA along a stream, or over a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from grpo_tta.config.checks import check_at_least, check_choice, check_positive, check_share
from grpo_tta.errors import UserError
from grpo_tta.method.online_gate import BiasGate
from grpo_tta.method.settings import ALONG_A_STREAM, ON_POLICY, GRPOSettings


@final
@dataclass(frozen=True)
class StreamSettings:
    """
    Attributes:
        grpo: the episode's settings, with the stream prior in reward and prediction.
        update_size: images of a step.
        anchor: share of the way back to the frozen model after each minibatch.
        pseudo_images: how many images' worth of a uniform prior the running mean starts with.
        guard: a class is held back at most `guard` times as much as the content-free views favour it; None for no
            guard.
        gate: how far the prior is divided out at all, by whether the stream's imbalance is bias; None for all the way.
        on_policy: pi_old, group, ensemble prediction and running mean are those of the current model; else of the frozen one.
        answer_after: the answer is that of the model after the step, for one more pass over the views. Otherwise an on-policy
            stream answers by the pass before the step, and the step serves the next minibatch.
        protocol: `online` carries parameters and prior along the stream; `batch` forgets both after each minibatch.
    """

    grpo: GRPOSettings = ALONG_A_STREAM
    update_size: int = 32
    anchor: float = 0.01
    pseudo_images: float = 16.0
    guard: float | None = 1.0
    gate: BiasGate | None = None
    on_policy: bool = False
    answer_after: bool = True
    protocol: Literal["batch", "online"] = "online"

    def __post_init__(self) -> None:
        check_at_least("update_size", self.update_size, 1)
        check_share("anchor", self.anchor)
        check_positive("pseudo_images", self.pseudo_images)
        check_choice("protocol", self.protocol, ("batch", "online"))
        if self.guard is not None:
            check_positive("guard", self.guard)
        if self.grpo.early_exit is not None:
            raise UserError("A stream reads all views of every image; set early_exit to None.")
        if self.grpo.steps.max_kl is not None:
            raise UserError("A stream has no bound on the KL of a step; set max_kl to None.")
        if self.guard is not None and self.grpo.views.content_free == 0:
            raise UserError("The guard needs content-free views; set views.content_free to at least 1, or guard to None.")
        if not self.answer_after and not self.on_policy:
            raise UserError("Only an on-policy stream can answer before its step; set on_policy, or answer_after to True.")


ON_POLICY_STREAM = StreamSettings(ON_POLICY, update_size=16, gate=BiasGate(), on_policy=True)
"""Of `grpo-tta-stream`: on-policy steps on all norms."""
