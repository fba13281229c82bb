"""Every method by name: a plain dict, made anew at each call."""

from __future__ import annotations

from collections.abc import Sequence

from grpo_tta.backbones.base import Backbone
from grpo_tta.baselines.catalogue import baseline_methods
from grpo_tta.baselines.tuned import tuned_baseline_methods
from grpo_tta.baselines.view_mean import ViewMeanSettings, view_mean_method
from grpo_tta.baselines.zero_shot import zero_shot_method
from grpo_tta.engine.interface import ImageBatch, Method, State
from grpo_tta.engine.parameters import make_plan
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError
from grpo_tta.method.controls import reward_argmax_method
from grpo_tta.method.grpo import Adaptation, adapt
from grpo_tta.method.online import StreamSettings, stream_method
from grpo_tta.method.settings import DEFAULT, FAST, PAPER, GRPOSettings


def grpo_method(settings: GRPOSettings, name: str = "grpo-tta") -> Method:
    def cuts(backbone: Backbone) -> Sequence[int]:
        return (make_plan(backbone, settings.tuned, settings.last_blocks, settings.rank).first_block,)

    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return adapt(policy, batch.seen, settings, image_ids=batch.image_ids, seed=batch.seed), state

    return Method(
        name, "episodic", "own", settings.views.views, settings.views.content_free, settings, cuts, run, stop=settings.stopping
    )


def known_methods() -> dict[str, Method]:
    """All methods by name, each with its default settings."""
    methods = [
        zero_shot_method(),
        view_mean_method(ViewMeanSettings(DEFAULT.views.views, DEFAULT.selected)),
        reward_argmax_method(DEFAULT),
        grpo_method(PAPER, "grpo-tta-paper"),
        grpo_method(FAST, "grpo-tta-fast"),
        grpo_method(DEFAULT, "grpo-tta"),
        stream_method(StreamSettings(protocol="batch"), "grpo-tta-batch"),
        stream_method(StreamSettings(), "grpo-tta-online"),
        *baseline_methods(),
        *tuned_baseline_methods(),
    ]
    return {method.name: method for method in methods}


def choose_methods(names: Sequence[str]) -> list[Method]:
    """Methods by name, in the order given; `all` stands for every one.

    Raises:
        UserError: an unknown name, or none at all.
    """
    known = known_methods()
    if list(names) == ["all"]:
        return list(known.values())
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"Unknown method {unknown[0]!r}; choose from {', '.join(known)}.")
    if not names:
        raise UserError(f"No method was named; choose from {', '.join(known)}.")
    return [known[name] for name in dict.fromkeys(names)]
