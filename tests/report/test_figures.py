"""No text of a figure lies on another, by the boxes that matplotlib gives; nothing is drawn through a point."""

from __future__ import annotations

import random

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from grpo_tta.report.demo_figure import dumbbells
from grpo_tta.report.figures import bar_colours, cost_plot, shift_plot
from grpo_tta.report.tables import MethodResult, Results

KINDS = {"source": "source", "sketch": "shifted", "photos": "real"}


def results(count: int) -> Results:
    """Methods as they crowd in a table: most cost 64 passes, and their means are close."""
    draw = random.Random(0)
    found = {}
    for i in range(count):
        name = ("zero-shot", "grpo-tta", "reward-argmax")[i] if i < 3 else f"a-method-{i}"
        mean, forwards = draw.uniform(55, 62), draw.choice([1.0, 64.0, 64.0, 64.0, 128.0, 68.0])
        figures = (mean, mean - 2, mean + 2, 2, 100, forwards, 1.0, 2.0, 3.0, 0)
        found[name] = MethodResult(name, "episodic" if i % 3 else "online", "own", dict.fromkeys(KINDS, mean), *figures)
    return Results(found, KINDS)


def boxes(figure: Figure) -> dict[str, Bbox]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [t for t in figure.findobj(Text) if isinstance(t, Text) and t.get_visible() and t.get_text().strip()]
    return {f"{n} {t.get_text()}": t.get_window_extent(canvas.get_renderer()) for n, t in enumerate(texts)}


def overlaps(found: dict[str, Bbox]) -> list[tuple[str, str]]:
    names = list(found)
    return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if found[a].overlaps(found[b])]


@pytest.mark.parametrize("count", [3, 30])
def test_names_in_the_plot_of_costs_do_not_overlap(count: int) -> None:
    figure = cost_plot(results(count), "grpo-tta")
    assert overlaps(boxes(figure)) == []
    (ax,) = figure.axes
    shown = {text.get_text() for text in ax.texts}
    assert "grpo-tta" in shown
    assert len(shown) == 3 if count == 3 else len(shown) > 8
    assert all(len(line.get_xdata()) <= 1 for line in ax.lines)  # points alone  # type: ignore[arg-type]


def test_texts_of_the_figure_of_the_demo_do_not_overlap_and_no_point_is_clipped() -> None:
    def entry(accuracy: float) -> dict[str, object]:
        return {"accuracy": accuracy, "ci95": [accuracy - 0.05, min(1.0, accuracy + 0.05)], "tasks": 2}

    def methods(before: float, after: float) -> dict[str, object]:
        return {"zero-shot": entry(before), "grpo-tta": entry(after)}

    found = {"source": (0.97, 1.0), "sketch": (0.5, 0.5), "fog": (0.3, 0.6), "digits": (0.6, 0.5)}
    kinds = {"source": "source", "sketch": "shifted", "fog": "shifted", "digits": "real"}
    tasks = [{"name": name, "kind": kinds[name], "n": 4, "methods": methods(*both)} for name, both in found.items()]
    figure = Figure(figsize=(7, 4), layout="constrained")
    ax = figure.subplots()
    dumbbells(ax, {"tasks": tasks, "shifted_mean": methods(0.47, 0.53)})
    texts = boxes(figure)
    assert overlaps(texts) == []
    shown = {text.split(" ", 1)[1] for text in texts}
    assert {"shifted mean", "source", "shifted", "real", "+30.0", "−10.0", "0.0"} <= shown
    markers = {line.get_marker() for line in ax.lines if len(line.get_xdata()) == 1}  # type: ignore[arg-type]
    assert markers == {"o", "s"}  # a loss is a square, whatever its colour
    assert not any(line.get_clip_on() for line in ax.lines if len(line.get_xdata()) == 1)  # type: ignore[arg-type]


def test_texts_in_the_plot_of_tasks_do_not_overlap() -> None:
    entry = {"accuracy": 0.5, "ci95": [0.4, 0.6]}
    for methods in (["zero-shot"], ["zero-shot", "tent", "grpo-tta"]):
        tasks = [{"name": name, "kind": kind, "n": 4, "methods": dict.fromkeys(methods, entry)} for name, kind in KINDS.items()]
        assert overlaps(boxes(shift_plot({"tasks": tasks}, bar_colours("grpo-tta", "tent", methods)))) == []
