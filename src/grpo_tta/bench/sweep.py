"""`grpo-tta sweep`: one setting varied at a time, on the tuning split alone; every run group of it is an ordinary run.

Settings that share the model, the prompts and the kind of views share one run, in which views, decode and frozen pass are
made once an image. `sweep.json` says which method of which run stands for which value of which axis.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, final

from rich.console import Console

from grpo_tta.backbones.base import Backbone, load_backbone
from grpo_tta.backbones.prompts import check_templates
from grpo_tta.bench.progress import run_with_progress
from grpo_tta.bench.records import FORMAT, check_format, write_json
from grpo_tta.bench.runs import RunSettings, check_same, check_seeds
from grpo_tta.config.serialise import to_plain
from grpo_tta.data.tasks import Task
from grpo_tta.engine.early_exit import Rounds
from grpo_tta.engine.interface import Method
from grpo_tta.engine.optim import SGD, Adam
from grpo_tta.engine.parameters import LowRank, NormAffine
from grpo_tta.errors import UserError, counted
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.candidates import Nucleus, Sample, TopK
from grpo_tta.method.controls import reward_argmax_method
from grpo_tta.method.grpo import grpo_method
from grpo_tta.method.objective import Centred, Target, ZScore
from grpo_tta.method.parse import change, get, parse_value, show
from grpo_tta.method.prediction import Ensemble, View0
from grpo_tta.method.rewards import Alignment, ContentFree, Reward, Semantic
from grpo_tta.method.settings import GRPOSettings
from grpo_tta.method.weighting import ByEntropy, MostConfident

MODEL, TEMPLATES = "model", "templates"
BASE = "base"


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
        Axis("weighting.sharpness", (0.0, 0.5, 1.0, 2.0)),
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


def prompted(tasks: Sequence[Task], templates: str) -> list[Task]:
    """Tasks under other templates, as `Setting.templates` names them."""
    if templates == "task":
        return list(tasks)
    if templates == "ensemble":
        return [replace(task, prompted_by="ensemble") for task in tasks]
    return [replace(task, template=templates, prompted_by="template") for task in tasks]


def run_group_folder(out: Path, run_group: int, seed: int) -> Path:
    return out / f"group-{run_group}" / f"seed-{seed}"


def describe_sweep(base: Setting, plan: SweepPlan, tasks: Sequence[Task], seeds: Sequence[int]) -> dict[str, Any]:
    """What `sweep.json` holds."""
    kinds: dict[str, Literal["number", "choice"]] = {
        point.axis: "number" if all(_is_number(p.value) for p in plan.points if p.axis == point.axis) else "choice"
        for point in plan.points
    }
    points = [
        {
            "axis": point.axis,
            "kind": kinds[point.axis],
            "value": show(point.value),
            "method": point.method,
            "control": point.control,
            "run_group": point.run_group,
            "base": point.is_base,
        }
        for point in plan.points
    ]
    run_groups = [
        {"model": run_group.model, "templates": run_group.templates, "views": to_plain(run_group.views)}
        for run_group in plan.run_groups
    ]
    return {
        "format": FORMAT,
        "base": to_plain(base),
        "split": "tuning",
        "seeds": list(seeds),
        "tasks": {task.name: len(task.image_ids) for task in tasks},
        "points": points,
        "run_groups": run_groups,
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _methods(run_group: RunGroup) -> Iterator[Method]:
    for name, grpo in run_group.methods.items():
        yield grpo_method(grpo, name)
    for name, grpo in run_group.controls.items():
        yield reward_argmax_method(grpo, name)


def run_sweep(
    base: Setting,
    axes: Sequence[Axis],
    tasks: Sequence[Task],
    out: Path,
    settings: RunSettings,
    console: Console,
    *,
    seeds: Sequence[int] = (0,),
    device: str = "cpu",
    download: bool = False,
) -> None:
    """Runs all run groups under all seeds into `out`; an existing folder with the same plan is resumed.

    Args:
        tasks: of the tuning split.
        settings: of every run, but for the seed and the kind of views.

    Raises:
        UserError: no seed, a value that fits neither the others nor the model, or a folder that holds something else.
    """
    check_seeds(seeds)
    plan = make_plan(base, axes, tasks)
    _open(out, json.loads(json.dumps(describe_sweep(base, plan, tasks, seeds))))
    runs = sum(len(run_group.methods) for run_group in plan.run_groups)
    axes_named = "1 axis" if len(axes) == 1 else f"{len(axes)} axes"
    groups_named = counted(len(plan.run_groups), "run group")
    console.print(f"{counted(len(plan.points), 'point')} on {axes_named}: {counted(runs, 'setting')} in {groups_named}")
    for model in dict.fromkeys(run_group.model for run_group in plan.run_groups):
        backbone = load_backbone(model, device=device, download=download)
        for number, run_group in enumerate(plan.run_groups):
            if run_group.model != model:
                continue
            methods = list(_methods(run_group))
            _check_model(backbone, methods)
            for seed in seeds:
                console.print(f"Run group {number + 1} of {len(plan.run_groups)}, seed {seed}: {len(methods)} methods")
                run_with_progress(
                    backbone,
                    prompted(tasks, run_group.templates),
                    methods,
                    run_group_folder(out, number, seed),
                    replace(settings, seed=seed, views=run_group.views),
                    console,
                    timed=False,
                )


def _check_model(backbone: Backbone, methods: Sequence[Method]) -> None:
    """A setting that the model does not bear would spoil the pass that all the others share."""
    for method in methods:
        try:
            method.cached_blocks(backbone)
        except UserError as error:
            raise UserError(f"{method.name}: {error}") from None


def _open(out: Path, description: dict[str, Any]) -> None:
    """Starts a sweep's folder or checks that an existing one holds the same sweep."""
    path = out / "sweep.json"
    if path.is_file():
        found = json.loads(path.read_text())
        check_format(out, found)
        check_same("sweep", out, found, description)
    elif (out / "run.json").is_file() or (out / "records").exists():
        raise UserError(f"{out} holds a run, not a sweep; name another --out.")
    else:
        write_json(path, description)
