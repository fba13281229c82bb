"""The report of sweeps: one curve (or bars) for each axis, and the same as CSV. A pure function of the records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from grpo_tta.bench.records import check_format, find_runs, read_records
from grpo_tta.data.tasks import SHIFTED_MEAN
from grpo_tta.errors import UserError
from grpo_tta.report.demo_figure import AFTER, GRID, OTHER
from grpo_tta.report.embed import data_uri
from grpo_tta.report.figures import FAINT, INK, bare, plain_text, short, to_svg
from grpo_tta.report.grids import number
from grpo_tta.report.pages import environment
from grpo_tta.report.statistics import mean_interval
from grpo_tta.report.summary import is_correct, mean_difference, paired
from grpo_tta.report.terminal import points_table
from grpo_tta.report.words import Words, words_for

FILE = "sweep.json"
LONGEST_VALUE = 32
"""Characters of a value under its plot."""
ABREAST = 40
"""Characters that fit below a plot side by side; more stand upright."""
LEAST_GAP = 0.05
"""Share of an axis between two values; closer ones are drawn at equal distances."""


@final
@dataclass(frozen=True)
class Sweep:
    """One sweep as it lies on disk: `about` is its `sweep.json`, `rows` are those of all its run groups and seeds."""

    folder: Path
    about: dict[str, Any]
    rows: pd.DataFrame


def is_sweep(folder: Path) -> bool:
    return (Path(folder) / FILE).is_file()


def read_sweep(folder: Path) -> Sweep:
    """
    Raises:
        UserError: the sweep is not finished, or another version wrote it.
    """
    about = json.loads((folder / FILE).read_text())
    check_format(folder, about)
    runs = [run for group in range(len(about["run_groups"])) for run in find_runs([folder / f"group-{group}"])]
    unfinished = f"{folder} holds an unfinished sweep; run the same `grpo-tta sweep` once more, it resumes."
    if any(not (run / "run.json").is_file() for run in runs) or len(runs) < len(about["run_groups"]) * len(about["seeds"]):
        raise UserError(unfinished)
    rows = read_records(runs)
    seen = rows.groupby("method").size()
    expected = sum(about["tasks"].values()) * len(about["seeds"])
    if any(seen.get(point[who], 0) < expected for point in about["points"] for who in ("method", "control")):
        raise UserError(unfinished)
    return Sweep(folder, about, rows)


def _mean(rows: pd.DataFrame) -> tuple[float, float, float]:
    """Accuracy in percent, a mean over tasks, with its interval clustered by image."""
    groups = [group for _, group in rows.groupby("task", sort=False)]
    found = mean_interval([is_correct(g).astype(float) for g in groups], [g["image_id"].to_numpy() for g in groups])
    return 100 * found[0], 100 * found[1], 100 * found[2]


def _difference(rows: pd.DataFrame, method: str, other: str) -> tuple[float, float, float]:
    """In points, a mean over tasks, paired by image and clustered by it over seeds."""
    found = mean_difference(paired(rows, method, other))
    return 100 * found["difference"], 100 * found["ci95"][0], 100 * found["ci95"][1]


def averaged(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows that enter the mean, and its name: the shifted tasks, or all where none of them was run."""
    shifted = rows[rows["kind"].isin(SHIFTED_MEAN)]
    some, words = (shifted, words_for(set(shifted["kind"]))) if len(shifted) else (rows, Words("mean over tasks", ""))
    return some, f"mean over {words.tasks(some['task'].nunique())}"


def sweep_table(sweep: Sweep) -> pd.DataFrame:
    """One row per point: accuracy in percent, difference to the base and to the control without update, in points, and cost.

    `milliseconds` is the method's own share in the sweep's runs, without views and frozen pass.
    """
    rows, _ = averaged(sweep.rows)
    by_method = dict(tuple(rows.groupby("method", sort=False)))
    base = next((p["method"] for p in sweep.about["points"] if p["base"]), "base")
    out = []
    for point in sweep.about["points"]:
        mine = by_method[point["method"]]
        fine = mine[mine["error"].isna()]
        accuracy, low, high = _mean(mine)
        to_base = _difference(rows, point["method"], base)
        to_control = _difference(rows, point["method"], point["control"])
        frozen = [(g["prediction_before"] == g["label"]).mean() for _, g in fine.groupby("task", sort=False)]
        out.append(
            {"axis": point["axis"], "kind": point["kind"], "value": point["value"], "base": point["base"]}
            | {"images": mine["image_id"].nunique(), "seeds": mine["seed"].nunique()}
            | {"accuracy": accuracy, "low": low, "high": high, "zero_shot": 100 * float(np.mean(frozen)) if frozen else np.nan}
            | dict(zip(("difference", "difference_low", "difference_high"), to_base, strict=True))
            | {"control": _mean(by_method[point["control"]])[0]}
            | dict(zip(("over_control", "over_control_low", "over_control_high"), to_control, strict=True))
            | {name: float(fine[name].mean()) for name in ("forwards", "backwards", "milliseconds", "updated", "clipped", "kl")}
            | {"errors": int(mine["error"].notna().sum())}
        )
    frame = pd.DataFrame(out)
    return _sorted(frame)


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    """Axes as they were named; numbers by size, choices as they were named."""
    parts = []
    for _, axis in frame.groupby("axis", sort=False):
        is_number = axis["kind"].iloc[0] == "number"
        parts.append(axis.iloc[axis["value"].astype(float).argsort(kind="stable")] if is_number else axis)
    return pd.concat(parts, ignore_index=True)


def by_task(sweep: Sweep) -> pd.DataFrame:
    """Accuracy in percent of every point on every task."""
    rows = sweep.rows.assign(correct=100 * is_correct(sweep.rows).astype(float))
    grouped = rows.groupby(["method", "task"], sort=False)["correct"]
    mean, count = grouped.mean(), grouped.size()
    out = []
    for point in sweep.about["points"]:
        for task in sweep.about["tasks"]:
            key = (point["method"], task)
            about = {"axis": point["axis"], "value": point["value"], "task": task}
            out.append(about | {"rows": int(count[key]), "accuracy": float(mean[key])})
    return pd.DataFrame(out)


def _crowded(places: np.ndarray) -> bool:
    """Whether values lie so close on their axis that their labels would lie on each other."""
    return bool(np.diff(places).min() < LEAST_GAP * (places.max() - places.min()))


@plain_text
def axis_figure(axis: pd.DataFrame) -> str:
    """The plot of `axis_plot` as SVG."""
    return to_svg(axis_plot(axis))


@plain_text
def axis_plot(axis: pd.DataFrame) -> Figure:
    """Points to the base over the values of one axis: a curve for numbers, bars for choices, with paired 95 % intervals.

    Numbers that would lie on each other stand at equal distances.
    """
    names = [short(str(value), LONGEST_VALUE) for value in axis["value"]]
    upright = max(map(len, names)) * len(names) > ABREAST
    figure = Figure(figsize=(4.6, 3.2 + (0.06 * max(map(len, names)) if upright else 0)), layout="constrained")
    ax = figure.subplots()
    ax.axhline(0, color=FAINT, lw=0.8)
    curve = axis["kind"].iloc[0] == "number" and len(axis) > 1
    values = axis["value"].astype(float).to_numpy() if curve else np.arange(len(axis), dtype=float)
    log = curve and values.min() > 0 and values.max() / values.min() >= 8
    equal = curve and _crowded(np.log(values) if log else values)
    x = np.arange(len(axis), dtype=float) if equal else values
    sides = axis["difference"] - axis["difference_low"], axis["difference_high"] - axis["difference"]
    spread = [side.clip(lower=0).to_numpy() for side in sides]
    # the control is drawn on the same scale: its distance below the method is the paired difference of the two
    control = (axis["difference"] - axis["over_control"]).to_numpy()
    if curve:
        ax.plot(x, control, "--", color=OTHER, lw=1.2, label="same rewards, no update")
        ax.errorbar(
            x, axis["difference"], spread, fmt="-o", color=AFTER, ms=4.5, lw=1.4, elinewidth=1, capsize=2.5, label="method"
        )
        if log and not equal:
            ax.set_xscale("log")
        ax.set_xticks([], minor=True)
    else:
        ax.bar(x, axis["difference"], width=0.55, color=AFTER, alpha=0.85, label="method")
        ax.errorbar(x, axis["difference"], spread, fmt="none", ecolor=INK, elinewidth=1, capsize=2.5)
        ax.plot(x, control, "D", color=OTHER, ms=4.5, mfc="white", label="same rewards, no update")
        ax.set_xlim(-0.6, max(len(axis) - 0.4, 1.6))
    ax.set_xticks(x, names, rotation=90 if upright else 0, fontsize=8 if upright else 9)
    here = x[axis["base"].to_numpy()]
    ax.plot(here, np.zeros(len(here)), "o", ms=10, mfc="none", mec=INK, mew=1, zorder=5)
    low = min(0.0, *(axis["difference"] - spread[0]), *control)
    high = max(0.0, *(axis["difference"] + spread[1]), *control)
    room = max(0.2 * (high - low), 0.5)
    ax.set_ylim(low - room, high + room)
    ax.set_xlabel(axis["axis"].iloc[0])
    ax.set_ylabel("points to the base")
    ax.grid(axis="y", color=GRID)
    bare(ax, "top", "right")
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8)
    return figure


def _surely(table: pd.DataFrame) -> np.ndarray:
    """What the interval of each difference to the base says: `better`, `worse` or nothing."""
    return np.select([table["difference_low"] > 0, table["difference_high"] < 0], ["better", "worse"], "")


def write_sweep_report(folders: Sequence[Path], out: Path, *, console: Console) -> Path:
    """Writes `sweep.csv`, `sweep-tasks.csv` and `report.html` into `out`, and prints every axis. Returns the page.

    Raises:
        UserError: more than one sweep, or as `read_sweep`.
    """
    if len(folders) > 1:
        raise UserError("A sweep is reported alone; name one sweep, or the runs of `bench` without it.")
    sweep = read_sweep(Path(folders[0]))
    table = sweep_table(sweep)
    _, mean = averaged(sweep.rows)
    out.mkdir(parents=True, exist_ok=True)
    for name, frame in (("sweep", table), ("sweep-tasks", by_task(sweep))):
        frame.to_csv(out / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    page = out / "report.html"
    page.write_text(_page(sweep, table, mean), encoding="utf-8")
    points_table(table.assign(surely=_surely(table)), mean).print(console)
    console.print(f"Page: {page}", markup=False)
    return page


def _page(sweep: Sweep, table: pd.DataFrame, mean: str) -> str:
    axes = [
        {
            "title": str(title),
            "figure": data_uri("image/svg+xml", axis_figure(axis).encode()),
            "rows": axis.to_dict("records"),
        }
        for title, axis in table.assign(surely=_surely(table)).groupby("axis", sort=False)
    ]
    about = sweep.about
    base = table[table["base"]]
    return (
        environment("grpo_tta.report", {"number": number})
        .get_template("sweep.html")
        .render(
            about=about,
            mean=mean,
            axes=axes,
            accuracy=float(base["accuracy"].iloc[0]) if len(base) else None,
            images=sum(about["tasks"].values()),
            rows=len(sweep.rows),
            base=json.dumps(about["base"], indent=1),
            versions=sorted(set(sweep.rows["versions"])),
        )
    )
