"""Plots of a report, each drawn from frames alone and returned as the text of a self-contained SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from grpo_tta.report.demo_figure import AFTER, BEFORE, GRID, OTHER
from grpo_tta.report.statistics import Bin
from grpo_tta.report.tables import ZERO_SHOT, Results
from grpo_tta.report.words import words_for

INK, FAINT = "#111827", "#6b7280"
COLOURS = {"episodic": OTHER, "batch": "#7c3aed", "online": "#0f766e"}
_BESIDE: tuple[tuple[float, Literal["left", "right", "center"]], ...] = ((10, "left"), (-10, "right"))
_PLACES = (*((dx, dy, side) for dy in (0.0, 4.0, -4.0, 7.0, -7.0) for dx, side in _BESIDE),)
"""Where a name may stand: points to the right and up of the middle of its point, and which end of it stands there."""


_LONGEST = 30
"""Characters of a name in a plot."""


plain_text = matplotlib.rc_context({"text.parse_math": False})
"""Decorates what draws names: a dollar sign in one is no formula."""


def short(name: str, longest: int = _LONGEST) -> str:
    """A name that fits into a plot, its middle left out where it is longer. What tells settings apart is often at the end."""
    half = longest // 2
    return name if len(name) <= longest else f"{name[: longest - half - 1]}…{name[-half:]}"


def to_svg(figure: Figure) -> str:
    """The same text for the same figure: no date, and ids that are salted with a constant."""
    buffer = io.StringIO()
    nothing = {"Creator": None, "Date": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.hashsalt": "grpo-tta"}):
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def bare(ax: Axes, *sides: str) -> None:
    for side in sides:
        ax.spines[side].set_visible(False)
    ax.set_axisbelow(True)


def pareto(cost: Sequence[float], gain: Sequence[float]) -> list[int]:
    """Places of the points that no other point beats, by rising cost: none costs at most as much and is at least as good."""
    front: list[int] = []
    for i in sorted(range(len(cost)), key=lambda i: (cost[i], -gain[i])):
        if not front or gain[i] > gain[front[-1]]:
            front.append(i)
    return front


@plain_text
def cost_figure(results: Results, reference: str) -> str:
    """The plot of `cost_plot` as SVG."""
    return to_svg(cost_plot(results, reference))


@plain_text
def cost_plot(results: Results, reference: str) -> Figure:
    """The mean against forward passes; rings mark the front of the methods that the reference may be compared with.

    Nothing is drawn through a point. A name that finds no free place beside its point is left out: the tables hold all.
    """
    shown = [m for m in results.methods.values() if results.is_complete(m.name) and m.forwards > 0]
    figure = Figure(figsize=(9.0, 6.2))
    canvas = FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.085, right=0.98, top=0.92, bottom=0.095)
    ax = figure.subplots()
    ax.set_xscale("log")
    for m in shown:
        colour = AFTER if m.name == reference else COLOURS[m.protocol]
        size = 9 if m.name == reference else 6.5
        ax.plot(m.forwards, m.shifted_mean, "o", color=colour, mfc="white" if m.teacher else colour, ms=size, zorder=4)
    comparable = [m for m in shown if m.name in results.comparable(reference)]
    front = [comparable[i] for i in pareto([m.forwards for m in comparable], [m.shifted_mean for m in comparable])]
    for m in front:
        ax.plot(m.forwards, m.shifted_mean, "o", color=INK, mfc="none", ms=13, mew=1.1, zorder=3)
    for protocol in dict.fromkeys(m.protocol for m in shown):
        ax.plot([], [], "o", color=COLOURS[protocol], label=protocol)
    if any(m.teacher for m in shown):
        ax.plot([], [], "o", color=FAINT, mfc="white", label="with a teacher")
    ax.plot([], [], "o", color=AFTER, label=short(reference))
    ax.plot([], [], "o", color=INK, mfc="none", ms=10, label="front of its block")
    ax.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=6, frameon=False, fontsize=8.5, columnspacing=1.2)
    words = words_for(results.kinds.values())
    ax.set_xlabel("forward passes per image (log scale)")
    ax.set_ylabel(f"top-1 accuracy, {words.mean}, %")
    ax.margins(x=0.17, y=0.08)
    bare(ax, "top", "right")
    low, high = ax.get_xlim()
    ticks = [2**k for k in range(14) if low <= 2**k <= high]
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.set_xticks([], minor=True)
    _label_points(ax, canvas, {m.name: (m.forwards, m.shifted_mean) for m in shown}, [reference, *(m.name for m in front)])
    return figure


def _label_points(ax: Axes, canvas: FigureCanvasAgg, shown: Mapping[str, tuple[float, float]], first: Sequence[str]) -> None:
    """Writes the names beside their points, where they hide no other name or point.

    Args:
        first: names that choose their places before the others; the very first is printed bold.
    """
    canvas.draw()
    renderer, unit = canvas.get_renderer(), canvas.figure.dpi / 72
    frame = ax.get_window_extent(renderer)
    points = {name: ax.transData.transform(point) for name, point in shown.items()}
    taken = [Bbox.from_bounds(x - 6 * unit, y - 6 * unit, 12 * unit, 12 * unit) for x, y in points.values()]
    for name in sorted(points, key=lambda n: (first.index(n) if n in first else len(first), -points[n][1])):
        for dx, dy, side in _PLACES:
            x, y = ax.transData.inverted().transform(points[name] + np.array([dx, dy]) * unit)
            text = ax.text(x, y, short(name), ha=side, va="center", fontsize=8.5, zorder=5, color=INK)
            if name == first[0]:
                text.set(color=AFTER, fontweight="bold")
            box = text.get_window_extent(renderer).padded(unit)
            inside = frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1)
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


@plain_text
def shift_figure(summary: Mapping[str, Any], shown: Mapping[str, str]) -> str:
    """The plot of `shift_plot` as SVG."""
    return to_svg(shift_plot(summary, shown))


@plain_text
def shift_plot(summary: Mapping[str, Any], shown: Mapping[str, str]) -> Figure:
    """Accuracy per task with 95 % intervals; `shown` is method -> colour, top bar first. Streams are left out."""
    tasks = [task for task in summary["tasks"] if task["kind"] != "stream"]
    figure = Figure(figsize=(7.4, 1.1 + max(0.42, 0.2 * (len(shown) + 0.7)) * len(tasks)), layout="constrained")
    ax = figure.subplots()
    step = 1 / (len(shown) + 0.7)
    y, ticks, previous = 0.0, [], None
    alike = len({task["kind"] for task in tasks}) == 1
    for task in tasks:
        if previous not in (None, task["kind"]):
            y += 0.35
            ax.axhline(y - 0.5 - 0.175, color=FAINT, lw=0.5)
        previous = task["kind"]
        for place, (method, colour) in enumerate(shown.items()):
            entry = task["methods"].get(method)
            if entry is None:
                continue
            at = y + (place - (len(shown) - 1) / 2) * step
            value, (low, high) = 100 * entry["accuracy"], (100 * x for x in entry["ci95"])
            ax.barh(at, value, height=step * 0.92, color=colour)
            ax.plot([low, high], [at, at], color=INK, lw=1, solid_capstyle="butt")
            ax.text(101, at, f"{value:.1f}", va="center", fontsize=7.5, color=INK)
        ticks.append((y, short(task["name"]) if alike else f"{short(task['name'])}\n({task['kind']})"))
        y += 1
    ax.set_yticks([at for at, _ in ticks], [label for _, label in ticks], fontsize=8)
    ax.set_ylim(y - 0.4, -0.6)
    ax.set_xlim(0, 100)
    ax.set_xlabel("top-1 accuracy, % (line: 95 % interval)")
    ax.grid(axis="x", color=GRID)
    bare(ax, "top", "right", "left")
    ax.tick_params(axis="y", length=0)
    handles = [Patch(color=colour) for colour in shown.values()]
    figure.legend(handles, list(map(short, shown)), loc="outside upper left", ncols=len(shown), frameon=False, fontsize=9)
    return figure


@plain_text
def reliability_figure(panels: Mapping[str, tuple[list[Bin], float]]) -> str:
    """The plot of `reliability_plot` as SVG."""
    return to_svg(reliability_plot(panels))


@plain_text
def reliability_plot(panels: Mapping[str, tuple[list[Bin], float]]) -> Figure:
    """Accuracy within bins of confidence; `panels` is title -> (bins, expected calibration error in percent)."""
    figure = Figure(figsize=(7.4, 3.9), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (title, (bins, error)), colour in zip(axes, panels.items(), (BEFORE, AFTER), strict=True):
        total = max(1, sum(b.count for b in bins))
        for b in (b for b in bins if b.count):
            width = 100 * (b.high - b.low) * 0.94
            middle = 50 * (b.low + b.high)
            ax.bar(middle, 100 * b.accuracy, width=width, color=colour)
            ax.plot([middle - width / 2, middle + width / 2], [100 * b.confidence] * 2, color=INK, lw=1.6)
            share = ax.text(middle, 2, f"{100 * b.count / total:.0f}%", ha="center", fontsize=7, color=INK)
            share.set_path_effects([withStroke(linewidth=2.5, foreground="white")])  # dark pages invert bar and figure alike
        ax.plot([0, 100], [0, 100], color=FAINT, lw=1, ls="--")
        ax.set_title(f"{short(title, 40)}\ncalibration error {error:.1f} %", fontsize=10, loc="left")
        ax.set_xlim(0, 100)
        ax.set_ylim(0, 100)
        ax.set_xlabel("confidence, %")
        ax.grid(color=GRID)
        bare(ax, "top", "right")
    axes[0].set_ylabel("accuracy, %")
    return figure


def bar_colours(reference: str, baseline: str | None, run: Sequence[str]) -> dict[str, str]:
    """The methods of the bars in the order of reading: zero-shot, the best baseline, the reference."""
    wanted = {ZERO_SHOT: BEFORE, **({baseline: OTHER} if baseline else {}), reference: AFTER}
    return {method: colour for method, colour in wanted.items() if method in run}
