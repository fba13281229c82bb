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

BEFORE, AFTER, OTHER, GRID = "#9aa5b1", "#c2410c", "#2563eb", "#e5e7eb"


def _dumbbells(ax: Axes, summary: dict[str, Any]) -> None:
    """Zero-shot against adapted accuracy, one line per task, sorted by gain within a kind."""
    kinds = ["source", "shifted", "cross-domain", "real", "stream"]

    def gain(task: dict[str, Any]) -> float:
        return float(task["methods"]["grpo-tta"]["accuracy"] - task["methods"]["zero-shot"]["accuracy"])

    tasks = sorted(summary["tasks"], key=lambda t: (-kinds.index(t["kind"]), gain(t)))
    ys, y, previous = [], 0.0, None
    for task in tasks:
        y += 1.0 + (0.6 if previous not in (None, task["kind"]) else 0.0)
        previous = task["kind"]
        ys.append(y)
    for y, task in zip(ys, tasks, strict=True):
        before, after = task["methods"]["zero-shot"], task["methods"]["grpo-tta"]
        a, b = 100 * before["accuracy"], 100 * after["accuracy"]
        ax.plot([100 * x for x in after["ci95"]], [y, y], color=AFTER, alpha=0.22, lw=7, solid_capstyle="round")
        ax.annotate("", (b, y), (a, y), arrowprops={"arrowstyle": "-|>", "color": AFTER, "lw": 1.4, "shrinkA": 3, "shrinkB": 1})
        ax.plot(a, y, "o", color=BEFORE, ms=7, zorder=3)
        ax.plot(b, y, "o", color=AFTER, ms=7, zorder=4)
        ax.text(101.5, y, f"{b - a:+.1f}", va="center", ha="left", fontsize=9, color=AFTER if b >= a else "#111827")
    ax.set_yticks(ys, [f"{task['name']}" for task in tasks], fontsize=9)
    ax.set_xlim(0, 100)
    ax.set_xlabel("top-1 accuracy, %")
    ax.grid(axis="x", color=GRID)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.plot([], [], "o", color=BEFORE, label="zero-shot")
    ax.plot([], [], "o", color=AFTER, label="GRPO-TTA (bar: 95 % interval)")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False, fontsize=9)


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
    bars.barh([1, 0], values, color=[BEFORE, AFTER if right else "#111827"], height=0.28)
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
def demo_figure(rows: pd.DataFrame, summary: dict[str, Any], tasks: Sequence[Task], path: Path) -> None:
    """Left: what adaptation does to every task; right: images whose answer it changed. Written as PNG."""
    by_name = {task.name: task for task in tasks}
    chosen = _chosen_episodes(rows, 8)
    figure = Figure(figsize=(13, 7.6), dpi=130, layout="constrained")
    halves = figure.add_gridspec(1, 2, width_ratios=[1.25, 1.0])
    left, right = figure.add_subfigure(halves[0, 0]), figure.add_subfigure(halves[0, 1])
    _dumbbells(left.subplots(), summary)
    grid = right.add_gridspec(4, 4, width_ratios=[1, 1.3, 1, 1.3])
    for index, (_, row) in enumerate(chosen.iterrows()):
        line, column = divmod(index, 2)
        image, bars = (right.add_subplot(grid[line, 2 * column + k]) for k in (0, 1))
        _episode(image, bars, row, by_name[row["task"]])
    seeds = ", ".join(str(s) for s in sorted(rows["seed"].unique()))
    left.suptitle(f"One unlabelled image at a time (seed {seeds})", fontsize=12, fontweight="bold")
    right.suptitle("Answers that changed (black: for the worse)", fontsize=12, fontweight="bold")
    figure.savefig(path)
