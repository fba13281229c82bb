"""One frozen dataclass per method: its configuration, its documentation and its command line in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, final, get_args

from grpo_tta.engine.early_exit import Stop
from grpo_tta.engine.optim import Optimizer
from grpo_tta.engine.parameters import TunedSet
from grpo_tta.errors import UserError
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.candidates import GROUP_RULES, GroupRule
from grpo_tta.method.objective import AdvantageForm, Weighting
from grpo_tta.method.rewards import RewardWeights

Prediction = Literal["view", "ensemble"]


@final
@dataclass(frozen=True)
class GRPOSettings:
    """Everything an episode of GRPO-TTA depends on, apart from the model, the prompts, the image and the seed.

    Attributes:
        views: the views and the content-free copies.
        selected: M, how many views of lowest entropy enter the group, the objective and the consensus.
        stop: views are read in rounds (3, 5, 7, 14, ... of them) until the best class leads by this share of the votes that are
            left (see `stopping.Stop`); None reads them all. Needs all views selected and the prediction `ensemble`.
        stop_doubt: with `stop`, the mean weight of the views read below which an image gets no more once it has seven.
        view_sharpness: a of the view weights softmax(-a H) in the consensus, the objective and the prediction; 0 weighs
            all selected views alike.
        candidates: K, size of a group; None takes 5, or all classes where there are fewer.
        group: how a group is chosen from the old policy.
        group_of: `view` gives every selected view a group of its own; `image` gives all of them the one that their common
            opinion proposes.
        nucleus_mass: probability mass of the `nucleus` rule.
        rewards: weights of the rewards.
        advantage: form of the group-relative advantages.
        target_temperature: of the `target` form.
        weighting: of the candidates in the objective.
        clip: half-width of the clip interval of the ratio.
        kl_weight: beta, weight of KL(pi_theta || pi_0).
        tuned: which visual parameters are tuned.
        last_blocks: only in the last n blocks, and the norms of the head; None for all, 0 for the head's alone.
        rank: of low-rank deltas.
        optimizer: `sgd` steps in proportion to the evidence; `adam` gives equal-sized steps to sure and unsure images.
        learning_rate: of the optimizer.
        max_gradient_norm: per image, never over the batch; None for no clipping.
        steps: S.
        max_kl: largest mean KL(pi_theta || pi_0) over the selected views after a step, kept by halving the step up to
            three times (a step that is still too long is dropped); None for no such bound.
        prediction: `view` (view 0) or `ensemble` (weighted mean of the adapted policy over the selected views).
        prior_weight: weight of the log content-free prior that is subtracted from the log prediction.
        gated_prior: whether the content-free prior is left out where the copies favour the same class as the views.
        adapted_prior: whether that prior is read off the adapted model (P more passes) or off the frozen one.
    """

    views: ViewSettings = field(default_factory=ViewSettings)
    selected: int = 24
    stop: float | None = None
    stop_doubt: float = 0.15
    view_sharpness: float = 1.0
    candidates: int | None = None
    group: GroupRule = "top_k"
    group_of: Literal["view", "image"] = "image"
    nucleus_mass: float = 0.9
    rewards: RewardWeights = field(default_factory=RewardWeights)
    advantage: AdvantageForm = "target"
    target_temperature: float = 1.0
    weighting: Weighting = "uniform"
    clip: float = 0.2
    kl_weight: float = 0.0
    tuned: TunedSet = "norm"
    last_blocks: int | None = 1
    rank: int = 4
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.3
    max_gradient_norm: float | None = 1.0
    steps: int = 1
    max_kl: float | None = None
    prediction: Prediction = "ensemble"
    prior_weight: float = 0.05
    gated_prior: bool = True
    adapted_prior: bool = False

    def __post_init__(self) -> None:
        for name, value in (*vars(self).items(), *vars(self.rewards).items()):
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{name} must be a finite number, not {value}.")
        for name in ("kl_weight", "prior_weight"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be 0 or more, not {getattr(self, name)}.")
        for name in ("target_temperature", "max_gradient_norm"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise UserError(f"{name} must be positive, not {value}.")
        if not 0 < self.nucleus_mass <= 1:
            raise UserError(f"nucleus_mass is a share above 0 and at most 1, not {self.nucleus_mass}.")
        for name, known in (("advantage", get_args(AdvantageForm)), ("weighting", get_args(Weighting))):
            if getattr(self, name) not in known:
                raise UserError(f"Unknown {name} {getattr(self, name)!r}; choose {', '.join(known)}.")
        if not 1 <= self.selected <= self.views.views:
            raise UserError(f"{self.selected} of {self.views.views} views cannot be selected; use 1 to {self.views.views}.")
        if self.candidates is not None and self.candidates < 1:
            raise UserError(f"A group of {self.candidates} candidates is empty; set candidates to at least 1.")
        if self.group not in GROUP_RULES:
            raise UserError(f"Unknown group rule {self.group!r}; choose {', '.join(GROUP_RULES)}.")
        if self.group_of not in ("view", "image"):
            raise UserError(f"Groups of {self.group_of!r} are unknown; choose view or image.")
        if self.view_sharpness < 0:
            raise UserError(f"view_sharpness must be 0 or more, not {self.view_sharpness}.")
        if self.steps < 0:
            raise UserError(f"{self.steps} steps cannot be taken; set steps to 0 or more.")
        if self.learning_rate <= 0:
            raise UserError(f"The learning rate must be positive, not {self.learning_rate}.")
        if self.clip <= 0:
            raise UserError(f"clip must be positive, not {self.clip}.")
        if self.optimizer not in ("sgd", "adam"):
            raise UserError(f"Unknown optimizer {self.optimizer!r}; choose sgd or adam.")
        if self.prediction not in ("view", "ensemble"):
            raise UserError(f"Unknown prediction rule {self.prediction!r}; choose view or ensemble.")
        if self.max_kl is not None and self.max_kl <= 0:
            raise UserError(f"max_kl must be positive or None, not {self.max_kl}.")
        if self.stop is not None:
            if not 0 <= self.stop <= 1:
                raise UserError(f"stop is a share between 0 and 1, or None to read all views, not {self.stop}.")
            if not 0 <= self.stop_doubt <= 1:
                raise UserError(f"stop_doubt is a weight between 0 and 1, not {self.stop_doubt}.")
            if self.selected < self.views.views or self.prediction != "ensemble" or self.max_kl is not None:
                raise UserError(
                    "Views can be read in rounds only where all of them may vote: set selected to the number of views, "
                    "prediction to ensemble and max_kl to None, or stop to None."
                )
        if self.views.content_free == 0 and (self.rewards.content_free or self.prior_weight):
            raise UserError("The content-free prior needs copies; set copies to at least 1, or its two weights to zero.")

    def group_size(self, classes: int) -> int:
        """K for a number of classes.

        Raises:
            UserError: more candidates were asked for than there are classes.
        """
        if self.candidates is None:
            return min(5, classes)
        if self.candidates > classes:
            raise UserError(
                f"{self.candidates} candidates were asked for, but there are only {classes} classes; "
                f"lower candidates to {classes} or add labels."
            )
        return self.candidates

    @property
    def stopping(self) -> Stop | None:
        """The rule by which an image needs no more views; None where all are read."""
        return None if self.stop is None else Stop(self.stop, self.stop_doubt, self.view_sharpness)

    @property
    def protocol(self) -> Literal["episodic", "online"]:
        return "online" if self.rewards.stream else "episodic"


DEFAULT = GRPOSettings()
"""What our evidence prefers; tuned on the tuning split of the nano suite alone."""

FAST = GRPOSettings(
    views=ViewSettings(views=24, content_free=0),
    selected=24,
    stop=0.08,
    rewards=RewardWeights(content_free=0.0),
    prior_weight=0.0,
    last_blocks=0,
)
"""The same for a fifth of the price: views in rounds, as many as the image needs (3 to 24, about seven on the nano suite),
no copies, and a step on the norms of the head alone, which never runs a block again."""

PAPER = GRPOSettings(
    views=ViewSettings(views=64, content_free=4),
    selected=6,
    view_sharpness=0.0,
    gated_prior=False,
    last_blocks=None,
    steps=3,
    candidates=3,
    group_of="view",
    advantage="zscore",
    weighting="uniform",
    kl_weight=0.1,
    optimizer="adam",
    learning_rate=1e-2,
    rewards=RewardWeights(alignment_view=1.0, alignment_consensus=0.0, content_free=0.3),
    prediction="view",
    prior_weight=0.0,
)
"""The structure that the paper describes: top-K, z-scored advantages, clip, KL, one reward of each family, prediction on
view 0. The numbers in it are ours; the paper's could not be had."""

PRESETS = {"default": DEFAULT, "accurate": DEFAULT, "fast": FAST, "paper": PAPER}
"""By name; `accurate` is the default by the name that says what it is for."""
