"""What a sweep varies: axes read from text, and the built-in plan around a preset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

from grpo_tta.engine.early_exit import Rounds
from grpo_tta.engine.optim import SGD, Adam
from grpo_tta.engine.parameters import LowRank, NormAffine
from grpo_tta.errors import UserError
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.candidates import Nucleus, Sample, TopK
from grpo_tta.method.objective import Centred, Target, ZScore
from grpo_tta.method.parse import change, get, parse_value, show
from grpo_tta.method.prediction import Ensemble, View0
from grpo_tta.method.rewards import Alignment, ContentFree, Reward, Semantic
from grpo_tta.method.settings import GRPOSettings
from grpo_tta.method.weighting import ByEntropy, MostConfident

MODEL, TEMPLATES = "model", "templates"


@final
@dataclass(frozen=True)
class Setting:
    """Everything that a sweep may vary.

    Attributes:
        model: as `backbones.load_backbone` names it.
        templates: `task` (each task's own template), `ensemble` (the mean of each task's ensemble), or one template with
            `{}` for all tasks.
        grpo: of the method.
    """

    model: str = "nano-clip"
    templates: str = "task"
    grpo: GRPOSettings = field(default_factory=GRPOSettings)

    @property
    def shared(self) -> tuple[str, str, ViewSettings]:
        """What settings must have in common to be run together: their numbers may differ."""
        return self.model, self.templates, replace(self.grpo.views, views=1, content_free=0)


@final
@dataclass(frozen=True)
class Axis:
    """One setting and its values; `at` are other settings that differ from the base for all of them."""

    name: str
    values: tuple[Any, ...]
    at: tuple[tuple[str, Any], ...] = ()

    @property
    def title(self) -> str:
        """As the command line has it, without the values."""
        return "@".join([self.name, *(f"{name}={show(value)}" for name, value in self.at)])


def _parse(base: Setting, name: str, text: str) -> Any:
    if name in (MODEL, TEMPLATES):
        return text.strip()
    return parse_value(base.grpo, name, text)


def split_outside(text: str, separator: str) -> list[str]:
    """The parts of a text between separators that stand outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        depth += (character in "([{") - (character in ")]}")
        if character == separator and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def parse_axis(text: str, base: Setting) -> Axis:
    """`NAME=V1,V2,…`, with `@NAME=V` behind it for what differs from the base along the whole axis.

    Commas and `@` inside of brackets belong to a value: `group=TopK(3),Nucleus(mass=0.9, at_most=8)`.

    Raises:
        UserError: the text cannot be read, or an unknown name or an impossible value stands in it.
    """
    varied, *fixed = split_outside(text, "@")
    name, equals, values = varied.partition("=")
    if not equals or not all(value.strip() for value in split_outside(values, ",")):
        raise UserError(f"{text!r} cannot be read; write a setting and its values, for example steps.count=1,3.")
    at = []
    for part in fixed:
        other, equals, value = part.partition("=")
        if not equals or len(split_outside(value, ",")) > 1:
            raise UserError(
                f"{text!r} cannot be read; behind @ goes one setting with one value, as in steps.clip=0.1,0.2@steps.count=3."
            )
        at.append((other.strip(), _parse(base, other.strip(), value)))
    start = base
    for other, value in at:
        start = vary(start, other, value)
    name = name.strip()
    return Axis(name, tuple(dict.fromkeys(_parse(start, name, value) for value in split_outside(values, ","))), tuple(at))


def default_axes(base: GRPOSettings) -> dict[str, Axis]:
    """The built-in plan around a preset, by title. Clip and KL say nothing at one step, so they are varied at three.
    Values that do not fit the preset are left out.

    The backbone is not in it: which models there are is the user's to say (`--vary model=…`).
    """
    three = (("steps.count", 3),)
    optimizer, V = base.steps.optimizer, base.views.views
    rate = getattr(optimizer, "learning_rate", SGD().learning_rate)
    last_blocks = getattr(base.tune, "last_blocks", 1) or None
    plan = [
        Axis("steps.optimizer.learning_rate", tuple(float(f"{rate * factor:.3g}") for factor in (0.1, 0.3, 1, 3, 10))),
        Axis("steps.count", (0, 1, 2, 3, 5)),
        Axis("advantage", (ZScore(), Centred(), Target())),
        Axis("advantage.temperature", (0.25, 0.5, 1.0, 2.0)),
        Axis("steps.optimizer", (SGD(rate), Adam(rate, max_norm=1.0))),
        Axis("tune", (NormAffine(last_blocks), LowRank(last_blocks=last_blocks))),
        Axis("tune.last_blocks", (1, 2, 4, None)),
        Axis("group.size", (2, 3, 5, 6)),
        Axis("group", (TopK(), Sample(), Nucleus())),
        Axis("group.per", ("view", "image")),
        Axis("steps.clip", (0.05, 0.2, 0.5), three),
        Axis("steps.kl", (0.0, 0.1, 0.5), three),
        Axis("steps.max_kl", (None, 0.01, 0.1)),
        Axis("reward", rewards_around(base)),
        Axis("views.views", (4, 8, 16, 24, 32)),
        Axis("views.content_free", (1, 2, 4, 8)),
        Axis("views.restored", (0.0, 0.25, 0.5, 0.75)),
        Axis("views.crop_scale", ((0.08, 1.0), (0.3, 1.0), (0.5, 1.0), (0.7, 1.0))),
        Axis("views.acutance", (0.0, 0.56, 0.6, 0.64)),
        Axis("weighting", (ByEntropy(), *(MostConfident(max(1, V * part // 4)) for part in (1, 2, 3)))),
        Axis("weighting.sharpness", (0.0, 1.5, 3.0, 6.0)),
        Axis("predict", (View0(), Ensemble())),
        Axis("predict.prior", (0.0, 0.05, 0.1, 0.3)),
        Axis("early_exit", (None, *(Rounds(share) for share in (0.04, 0.08, 0.16, 0.3)))),
        Axis(TEMPLATES, ("task", "ensemble")),
    ]
    fitting = [replace(axis, values=tuple(v for v in axis.values if _fits(base, axis, v))) for axis in plan]
    return {axis.title: axis for axis in fitting if len(axis.values) > 1}


def rewards_around(base: GRPOSettings) -> tuple[Reward, ...]:
    """Alignment of either kind, alone and with each dispersion at several weights."""
    plain, per_view = Alignment(), Alignment(per="view")
    with_prior = [plain + weight * ContentFree() for weight in (0.05, 0.1, 0.3)]
    return (plain, per_view, *with_prior, plain + 0.3 * ContentFree(gated=False), plain + 0.3 * Semantic())


def _fits(base: GRPOSettings, axis: Axis, value: Any) -> bool:
    """Whether the value fits the preset: one without content-free views has no weight for them, for example."""
    setting = Setting(grpo=base)
    try:
        for name, other in (*axis.at, (axis.name, value)):
            setting = vary(setting, name, other)
    except UserError:
        return False
    return True


def choose_axes(names: Sequence[str], varied: Sequence[str], base: GRPOSettings) -> list[Axis]:
    """Axes of the built-in plan by name (`all` for the whole), and the user's own, which take the place of the former.

    Raises:
        UserError: no axis, an unknown one, or one that cannot be read.
    """
    built_in = default_axes(base)
    by_name = {axis.name: axis for axis in built_in.values()}
    wanted = built_in.values() if "all" in names else [by_name[name] for name in names if name in by_name]
    if unknown := [name for name in names if name != "all" and name not in by_name]:
        raise UserError(f"The built-in plan has no axis {unknown[0]!r}; choose from all, {', '.join(by_name)}, or use --vary.")
    own = [parse_axis(text, Setting(grpo=base)) for text in varied]
    axes = {axis.title: axis for axis in (*wanted, *own)}
    if not axes:
        raise UserError("Nothing to vary; name --axes all, or a setting and its values, for example --vary steps=1,3.")
    return list(axes.values())


def vary(setting: Setting, name: str, value: Any) -> Setting:
    """The same with one thing changed. As many views are selected as before, but no more than there are.

    Raises:
        UserError: the value does not fit the other settings.
    """
    if name == MODEL:
        return replace(setting, model=value)
    if name == TEMPLATES:
        return replace(setting, templates=value)
    get(setting.grpo, name)
    grpo = setting.grpo
    if name == "views.views" and isinstance(grpo.weighting, MostConfident):
        grpo = replace(grpo, weighting=MostConfident(min(grpo.weighting.count, value, grpo.views.views)))
    return replace(setting, grpo=change(grpo, name, value))


def value_of(setting: Setting, name: str) -> Any:
    return getattr(setting, name) if name in (MODEL, TEMPLATES) else get(setting.grpo, name)
