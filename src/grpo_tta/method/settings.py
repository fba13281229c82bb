"""Settings of GRPO-TTA, composed of small parts. Each part does its work and carries its own parameters alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from grpo_tta.config.checks import check_at_least, check_positive
from grpo_tta.engine.early_exit import Rounds
from grpo_tta.engine.optim import SGD, Adam, Optimizer
from grpo_tta.engine.parameters import NormAffine, Tune
from grpo_tta.errors import UserError
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.candidates import TopK
from grpo_tta.method.objective import Target, ZScore
from grpo_tta.method.prediction import Ensemble, PredictionRule, StreamEnsemble, View0
from grpo_tta.method.rewards import CONTENT_FREE, STREAM, Alignment, ContentFree, StreamPrior, Sum, needs_of
from grpo_tta.method.types import AdvantageForm, GroupRule, RewardFunction
from grpo_tta.method.weighting import ByEntropy, MostConfident, Weighting


@final
@dataclass(frozen=True)
class Steps:
    """Policy steps: clipped ascent with a KL penalty.

    Attributes:
        count: S; 0 takes none.
        optimizer: `SGD` steps in proportion to the evidence; `Adam` gives equal-sized steps to sure and unsure images.
        clip: half-width of the clip interval of the ratio.
        kl: beta, weight of KL(pi_theta || pi_0) in the objective.
        max_kl: largest mean KL(pi_theta || pi_0) over the selected views after a step, kept by halving the step up to
            three times (a step that is still too long is dropped); None for no such bound.
    """

    count: int = 1
    optimizer: Optimizer = field(default_factory=SGD)
    clip: float = 0.2
    kl: float = 0.0
    max_kl: float | None = None

    def __post_init__(self) -> None:
        check_at_least("count", self.count, 0)
        check_positive("clip", self.clip)
        check_at_least("kl", self.kl, 0)
        if self.max_kl is not None:
            check_positive("max_kl", self.max_kl)


@final
@dataclass(frozen=True)
class GRPOSettings:
    """Everything an episode of GRPO-TTA depends on, apart from the model, the prompts, the image and the seed.

    Attributes:
        views: the views and the content-free views.
        weighting: how views count: `ByEntropy` or `MostConfident`.
        group: which candidates are scored: `TopK`, `Sample`, `Nucleus`, or a function (reference, noise) -> group.
        reward: a sum of rewards, or a function (reference, group) -> rewards.
        advantage: `Target`, `ZScore`, `Centred`, or a function (rewards, group) -> advantages.
        tune: which visual parameters: `NormAffine` or `LowRank`.
        steps: how the policy moves.
        predict: how the adapted policy answers: `Ensemble` or `View0`.
        early_exit: `Rounds` reads only as many views as an image needs; None reads them all.
    """

    views: ViewSettings = field(default_factory=ViewSettings)
    weighting: Weighting = field(default_factory=ByEntropy)
    group: GroupRule = field(default_factory=TopK)
    reward: RewardFunction = field(default_factory=lambda: Alignment() + 0.05 * ContentFree())
    advantage: AdvantageForm = field(default_factory=Target)
    tune: Tune = field(default_factory=lambda: NormAffine(last_blocks=1))
    steps: Steps = field(default_factory=Steps)
    predict: PredictionRule = field(default_factory=Ensemble)
    early_exit: Rounds | None = None

    def __post_init__(self) -> None:
        if isinstance(self.weighting, MostConfident) and self.weighting.count > self.views.views:
            raise UserError(
                f"{self.weighting.count} of {self.views.views} views cannot be selected; use 1 to {self.views.views}."
            )
        if isinstance(self.reward, Sum) and not any(weight for weight, _ in self.reward.terms):
            raise UserError("All reward weights are zero; give at least one reward a weight.")
        if self.views.content_free == 0 and CONTENT_FREE in self.needs:
            raise UserError(
                "The content-free prior needs content-free views; set views.content_free to at least 1, or leave the prior out "
                "of reward and prediction (reward=Alignment(), predict=Ensemble(prior=0))."
            )
        if self.early_exit is not None:
            if self.weighting != ByEntropy(self.early_exit.sharpness):
                raise UserError("Views can be read in rounds only where all of them vote: use ByEntropy of the same sharpness.")
            if not isinstance(self.predict, Ensemble) or self.steps.max_kl is not None:
                raise UserError("Views can be read in rounds only with predict=Ensemble(...) and without max_kl.")

    @property
    def needs(self) -> frozenset[str]:
        """What the parts need beside the views: `content_free`, `stream`."""
        return frozenset().union(*(needs_of(part) for part in (self.group, self.reward, self.advantage, self.predict)))

    def check_episodic(self) -> None:
        """
        Raises:
            UserError: a part needs a stream.
        """
        if STREAM in self.needs:
            raise UserError("The stream prior needs a stream; use the online method, or a reward and a prediction without it.")


DEFAULT = GRPOSettings()
"""What our evidence prefers; tuned on the tuning split of the nano suite alone."""

FAST = GRPOSettings(
    views=ViewSettings(views=24, content_free=0),
    reward=Alignment(),
    tune=NormAffine(last_blocks=0),
    predict=Ensemble(prior=0.0),
    early_exit=Rounds(share=0.08),
)
"""The same for a fifth of the price: views in rounds, as many as the image needs (3 to 24, about six on the nano suite),
no content-free views, and a step on the norms of the head alone, which never runs a block again."""

PAPER = GRPOSettings(
    views=ViewSettings(views=64, content_free=4),
    weighting=MostConfident(6),
    group=TopK(3, per="view"),
    reward=Alignment(per="view") + 0.3 * ContentFree(gated=False),
    advantage=ZScore(),
    tune=NormAffine(),
    steps=Steps(3, Adam(1e-2, max_norm=1.0), clip=0.2, kl=0.1),
    predict=View0(),
)
"""The structure that the paper describes: top-K, z-scored advantages, clip, KL, one reward of each family, prediction on
view 0. The numbers in it are ours; the paper's equations were not available to us."""

ALONG_A_STREAM = GRPOSettings(
    views=ViewSettings(views=10, content_free=0),
    reward=Alignment() + 1.0 * StreamPrior(),
    advantage=Target(temperature=0.5),
    tune=NormAffine(),
    steps=Steps(1, Adam(1e-3, max_norm=1.0)),
    predict=StreamEnsemble(prior=1.0),
)
"""Of the online and batch methods: the dispersion is that of the stream prior, few views, and all norms."""

PRESETS = {"default": DEFAULT, "fast": FAST, "paper": PAPER}
"""By name."""
