"""Settings of GRPO-TTA along a stream, or over a batch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, final

from grpo_tta.config.checks import check_at_least, check_choice, check_positive, check_share
from grpo_tta.errors import UserError
from grpo_tta.method.online_gate import BiasGate
from grpo_tta.method.online_shift import ShiftAlarm
from grpo_tta.method.settings import ALONG_A_STREAM, GRPOSettings, Steps
from grpo_tta.method.weighting import MostConfident


@final
@dataclass(frozen=True)
class StreamSettings:
    """
    Attributes:
        grpo: the episode's settings, with the stream prior in reward and prediction.
        update_size: images of a step.
        gradient_views: n, how many of the views, from the first, carry the gradient; all of them where there are fewer.
        anchor: share of the way back to the frozen model after each minibatch.
        step_kl: longest step in nats: the mean KL(pi_old || pi_theta) over view 0 of its minibatch. A longer one is shortened,
            for one more pass over view 0. None for the length that the optimizer gives.
        max_kl: no step is taken where KL(pi_theta || pi_0), the mean over view 0 of a minibatch, is this far in nats; from half
            of it on steps are shorter. None for no bound.
        max_rise: likewise where the mean relative entropy of pi_theta over view 0 is this far above that of pi_0: a model that
            learns its stream grows surer, or stays as sure.
        pseudo_images: how many images' worth of a uniform prior the running mean starts with.
        gate: how far the prior is divided out, as bias, or multiplied in, as truth; None for divided out all the way.
        alarm: a change of the images' look forgets parameters and prior; None to remember them whatever comes, and for batches.
        on_policy: pi_old, group, ensemble prediction and running mean are those of the current model; else of the frozen one,
            which then reads all views.
        answer_after: the answer is that of the model after the step, for one more pass over the views. Otherwise a stream
            answers by the pass before the step, and the step serves the next minibatch.
        protocol: `online` carries parameters and prior along the stream; `batch` forgets both after each minibatch.
    """

    grpo: GRPOSettings = ALONG_A_STREAM
    update_size: int = 16
    gradient_views: int = 3
    anchor: float = 0.01
    step_kl: float | None = 5e-4
    max_kl: float | None = 1.5
    max_rise: float | None = 0.15
    pseudo_images: float = 16.0
    gate: BiasGate | None = field(default_factory=BiasGate)
    alarm: ShiftAlarm | None = field(default_factory=ShiftAlarm)
    on_policy: bool = True
    answer_after: bool = False
    protocol: Literal["batch", "online"] = "online"

    def __post_init__(self) -> None:
        check_at_least("update_size", self.update_size, 1)
        check_at_least("gradient_views", self.gradient_views, 1)
        check_share("anchor", self.anchor)
        check_positive("pseudo_images", self.pseudo_images)
        for name, bound in (("step_kl", self.step_kl), ("max_kl", self.max_kl), ("max_rise", self.max_rise)):
            if bound is not None:
                check_positive(name, bound)
        check_choice("protocol", self.protocol, ("batch", "online"))
        if self.grpo.early_exit is not None:
            raise UserError("A stream reads all views of every image; set early_exit to None.")
        if isinstance(self.grpo.weighting, MostConfident):
            raise UserError("All views of a stream count; use ByEntropy in place of MostConfident.")
        if self.grpo.steps.max_kl is not None:
            raise UserError("A stream bounds the KL by StreamSettings(max_kl=...), not by its steps; set steps.max_kl to None.")
        if self.protocol == "batch" and not self.answer_after:
            raise UserError("A batch that answers before its step learns for nothing; set answer_after to True.")

    @property
    def frozen_views(self) -> int:
        """How many of the views the frozen model reads: view 0 for the zero-shot answer, and those it is compared on."""
        if not self.on_policy:
            return self.grpo.views.views
        return min(self.gradient_views, self.grpo.views.views) if self.grpo.steps.kl else 1


ONLINE = StreamSettings()
"""Of `grpo-tta-online`."""

NO_STEP = replace(ONLINE, grpo=replace(ALONG_A_STREAM, steps=Steps(0)))
"""Of `online-no-step`, the control: the same rewards and the same prior without an update."""

BATCH = StreamSettings(update_size=32, answer_after=True, protocol="batch", alarm=None)
"""Of `grpo-tta-batch`."""
