"""Figures drawn from records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grpo_tta.data.tasks import Task
from grpo_tta.report.grids import number
from grpo_tta.report.words import words_for

BEFORE, AFTER, OTHER, GRID, LOST = "#9aa5b1", "#c2410c", "#2563eb", "#e5e7eb", "#111827"


_KINDS = ("source", "shifted", "cross-domain", "real", "stream")
_EDGE = 103.0
"""Right of the axis, in percent, so that points at 100 are whole."""


def _rows(summary: dict[str, Any]) -> list[tuple[float, str, dict[str, Any]]]:
    """(height, name, methods) of every line: kinds one above the other, tasks by gain within a kind, the mean at the foot."""
    tasks = sorted(summary["tasks"], key=lambda t: (-_KINDS.index(t["kind"]), _gain(t["methods"])))
    rows, y, previous = [], 0.0, None
    if means := summary["shifted_mean"]:
        rows.append((y, words_for({task["kind"] for task in tasks}).mean, means))
    for task in tasks:
        y += 1.0 + (0.0 if task["kind"] == previous else 0.9)
        previous = task["kind"]
        rows.append((y, task["name"], task["methods"]))
    return rows


def _gain(methods: dict[str, Any]) -> float:
    return float(methods["grpo-tta"]["accuracy"] - methods["zero-shot"]["accuracy"])


def dumbbells(ax: Axes, summary: dict[str, Any]) -> None:
    """Zero-shot against adapted accuracy: an arrow per task, solid for gains and dashed for losses, and the mean."""
    rows = _rows(summary)
    for y, _, methods in rows:
        before, after = methods["zero-shot"], methods["grpo-tta"]
        a, b = 100 * before["accuracy"], 100 * after["accuracy"]
        lost = round(b - a, 1) < 0
        ax.plot([100 * x for x in after["ci95"]], [y, y], color=AFTER, alpha=0.22, lw=7, solid_capstyle="round", clip_on=False)
        if round(b - a, 1):
            line = {"arrowstyle": "-|>", "color": LOST if lost else AFTER, "lw": 1.4, "shrinkA": 3, "shrinkB": 1}
            ax.annotate("", (b, y), (a, y), arrowprops=line | ({"linestyle": "--"} if lost else {}))
        ax.plot(a, y, "o", color=BEFORE, ms=7, zorder=3, clip_on=False)
        ax.plot(b, y, "s" if lost else "o", color=LOST if lost else AFTER, ms=7, zorder=4, clip_on=False)
        gain = number(b - a, 1, True)
        ax.text(_EDGE + 1.5, y, gain, va="center", ha="left", fontsize=9, color=LOST if lost else AFTER,
                fontweight="bold" if y == 0 else "normal")  # fmt: skip
    ax.set_yticks([y for y, _, _ in rows], [name for _, name, _ in rows], fontsize=9)
    if summary["shifted_mean"]:
        ax.get_yticklabels()[0].set_fontweight("bold")
    kinds = {task["name"]: task["kind"] for task in summary["tasks"]}
    highest = {kinds[name]: y for y, name, _ in rows if name in kinds}
    for kind, y in highest.items():
        ax.text(0, y + 0.55, kind, va="bottom", ha="left", fontsize=8, fontstyle="italic", color="#4b5563")
    ax.set_xlim(0, _EDGE)
    ax.set_ylim(-0.7, rows[-1][0] + 1.3)
    ax.set_xticks(range(0, 101, 20))
    ax.set_xlabel("top-1 accuracy, %")
    ax.grid(axis="x", color=GRID)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.plot([], [], "o", color=BEFORE, label="zero-shot")
    ax.plot([], [], "o", color=AFTER, label="GRPO-TTA (bar: 95 % interval)")
    ax.plot([], [], "s--", color=LOST, label="for the worse")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, frameon=False, fontsize=9)


def _chosen_episodes(rows: pd.DataFrame, wanted: int) -> pd.DataFrame:
    """Images whose answer changed: mostly repaired ones and, for honesty, a broken one where there is one."""
    ours = rows[(rows["method"] == "grpo-tta") & rows["error"].isna()]
    changed = ours[ours["prediction"] != ours["prediction_before"]]
    right = changed[changed["prediction"] == changed["label"]]
    wrong = changed[changed["prediction_before"] == changed["label"]]
    repaired = right.sort_values("confidence", ascending=False).drop_duplicates("task")
    broken = wrong.sort_values("confidence", ascending=False).head(1)
    return pd.concat([repaired.head(wanted - len(broken)), broken])


def _episode(shown: Axes, bars: Axes, row: pd.Series, task: Task) -> None:
    image, _ = task.load(list(task.image_ids).index(row["image_id"]))
    shown.imshow(np.asarray(image.convert("RGB")))
    shown.set_axis_off()
    right = row["prediction"] == row["label"]
    shown.set_title(f"{task.name}\ntruth: {task.classes[row['label']]}", fontsize=9, loc="left")
    names = [task.classes[row["prediction_before"]], task.classes[row["prediction"]]]
    values = [100 * row["confidence_before"], 100 * row["confidence"]]
    bars.barh([1, 0], [100, 100], color=GRID, height=0.28)
    bars.barh([1, 0], values, color=[BEFORE, AFTER if right else LOST], height=0.28)
    for y, name, value in zip((1, 0), names, values, strict=True):
        bars.text(0, y + 0.22, f"{name}  {value:.0f} %", va="bottom", fontsize=9, color="#111827")
    bars.set_xlim(0, 100)
    bars.set_ylim(-0.4, 1.8)
    bars.set_yticks([1, 0], ["before", "after"], fontsize=8)
    bars.set_xticks([])
    for side in ("top", "right", "bottom", "left"):
        bars.spines[side].set_visible(False)
    bars.tick_params(axis="y", length=0)


@matplotlib.rc_context({"text.parse_math": False})  # a dollar sign in a name is no formula
def demo_figure(rows: pd.DataFrame, summary: dict[str, Any], tasks: Sequence[Task], path: Path, model: str) -> None:
    """The plot of `demo_plot`, written as PNG."""
    demo_plot(rows, summary, tasks, model).savefig(path)


@matplotlib.rc_context({"text.parse_math": False})
def demo_plot(rows: pd.DataFrame, summary: dict[str, Any], tasks: Sequence[Task], model: str) -> Figure:
    """Left: what adaptation does to every task; right: images whose answer it changed.

    Args:
        model: its name, for the title.
    """
    by_name = {task.name: task for task in tasks}
    chosen = _chosen_episodes(rows, 8)
    figure = Figure(figsize=(13, 7.6), dpi=130, layout="constrained")
    halves = figure.add_gridspec(1, 2, width_ratios=[1.25, 1.0])
    left, right = figure.add_subfigure(halves[0, 0]), figure.add_subfigure(halves[0, 1])
    dumbbells(left.subplots(), summary)
    grid = right.add_gridspec(4, 4, width_ratios=[1, 1.3, 1, 1.3])
    for index, (_, row) in enumerate(chosen.iterrows()):
        line, column = divmod(index, 2)
        image, bars = (right.add_subplot(grid[line, 2 * column + k]) for k in (0, 1))
        _episode(image, bars, row, by_name[row["task"]])
    seeds = ", ".join(str(s) for s in sorted(rows["seed"].unique()))
    counts = sorted({task["n"] for task in summary["tasks"]})
    images = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    about = f"{model}, {images} images per task, seed {seeds}"
    left.suptitle(f"One unlabelled image at a time: {about}", fontsize=11, fontweight="bold")
    title = "Answers that changed (black: for the worse)" if len(chosen) else "No answer changed"
    right.suptitle(title, fontsize=12, fontweight="bold")
    return figure
