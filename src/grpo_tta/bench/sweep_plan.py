"""From axes to run groups: every setting once, with those that can share its views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from grpo_tta.backbones.prompts import check_templates
from grpo_tta.bench.sweep_axes import Axis, Setting, value_of, vary
from grpo_tta.data.tasks import Task
from grpo_tta.errors import UserError
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.parse import show
from grpo_tta.method.prediction import Ensemble
from grpo_tta.method.settings import GRPOSettings

BASE = "base"


@final
@dataclass(frozen=True)
class Point:
    """One value of one axis: the method that stands for it, its control, and the run group that runs both."""

    axis: str
    value: Any
    method: str
    control: str
    run_group: int
    is_base: bool


@final
@dataclass(frozen=True)
class RunGroup:
    """What one run holds: method -> setting, and control -> setting whose rewards it computes without an update."""

    model: str
    templates: str
    views: ViewSettings
    methods: Mapping[str, GRPOSettings]
    controls: Mapping[str, GRPOSettings]


@final
@dataclass(frozen=True)
class SweepPlan:
    points: tuple[Point, ...]
    run_groups: tuple[RunGroup, ...]


def control_of(grpo: GRPOSettings) -> GRPOSettings:
    """The settings that `reward-argmax` reads, the others left at their defaults: equal for equal controls."""
    return GRPOSettings(
        views=grpo.views,
        weighting=grpo.weighting,
        reward=grpo.reward,
        predict=Ensemble(prior=0.0),
        early_exit=grpo.early_exit,
    )


def make_plan(base: Setting, axes: Sequence[Axis], tasks: Sequence[Task]) -> SweepPlan:
    """Every setting once, however many axes it lies on, and one run group for each set that can share its views.

    The base's own value is a point of every axis, whether it was named or not.

    Raises:
        UserError: a value does not fit the base, the classes of a task or an episodic method.
    """
    names: dict[Setting, str] = {base: BASE}
    found: list[tuple[Axis, Any, Setting]] = []
    for axis in axes:
        start = base
        for name, value in axis.at:
            start = _try(axis.title, start, name, value)
        for value in dict.fromkeys((*axis.values, value_of(start, axis.name))):
            setting = _try(axis.title, start, axis.name, value)
            _check(setting, f"{axis.title} at {show(value)}", tasks)
            names.setdefault(setting, "@".join([f"{axis.name}={show(value)}", *axis.title.split("@")[1:]]))
            found.append((axis, value, setting))
    _check(base, BASE, tasks)

    run_groups: dict[tuple[str, str, ViewSettings], RunGroup] = {}
    controls: dict[tuple[Any, ...], str] = {}
    for setting, name in names.items():
        run_group = run_groups.setdefault(setting.shared, RunGroup(*setting.shared, {}, {}))
        control = controls.setdefault((*setting.shared, control_of(setting.grpo)), f"{name} (no update)")
        run_groups[setting.shared] = replace(
            run_group,
            methods={**run_group.methods, name: setting.grpo},
            controls={**run_group.controls, control: control_of(setting.grpo)},
        )
    places = {shared: number for number, shared in enumerate(run_groups)}
    points = tuple(
        Point(
            axis.title,
            value,
            names[setting],
            controls[(*setting.shared, control_of(setting.grpo))],
            places[setting.shared],
            setting == base,
        )
        for axis, value, setting in found
    )
    return SweepPlan(points, tuple(run_groups.values()))


def _try(title: str, setting: Setting, name: str, value: Any) -> Setting:
    try:
        return vary(setting, name, value)
    except UserError as error:
        raise UserError(f"{title} at {name}={show(value)}: {error}") from None


def _check(setting: Setting, where: str, tasks: Sequence[Task]) -> None:
    try:
        setting.grpo.check_episodic()
        if setting.templates not in ("task", "ensemble"):
            check_templates(setting.templates)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
