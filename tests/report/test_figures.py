"""No text of a figure lies on another or is cut, by the boxes that matplotlib gives; nothing is drawn through a point."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from grpo_tta.data import nano
from grpo_tta.data.tasks import nano_tasks
from grpo_tta.report.demo_figure import demo_plot, dumbbells
from grpo_tta.report.figures import bar_colours, cost_plot, reliability_plot, shift_plot, short
from grpo_tta.report.statistics import reliability
from grpo_tta.report.summary import summarize
from grpo_tta.report.sweep import axis_plot
from grpo_tta.report.tables import MethodResult, Results
from tests.report.boxes import boxes, check_texts, clipped, overlaps
from tests.report.test_report import record

KINDS = {"source": "source", "sketch": "shifted", "photos": "real"}
OWN_SETTINGS = "grpo-tta[group=Sample(5),steps.optimizer=SGD(rate=0.1)]"
LONG_TASK = "photographs-of-birds-at-night/validation"


def results(count: int) -> Results:
    """Methods as they crowd in a table: most cost 64 passes, and their means are close."""
    draw = random.Random(0)
    found = {}
    for i in range(count):
        name = ("zero-shot", "grpo-tta", "reward-argmax", OWN_SETTINGS)[i] if i < 4 else f"a-method-{i}"
        mean, forwards = draw.uniform(55, 62), draw.choice([1.0, 64.0, 64.0, 64.0, 128.0, 68.0])
        figures = (mean, mean - 2, mean + 2, 2, 100, forwards, 1.0, 2.0, 3.0, 0)
        reward = "teacher" if i == 7 else "own"
        found[name] = MethodResult(name, "episodic" if i % 3 else "online", reward, dict.fromkeys(KINDS, mean), *figures)
    return Results(found, KINDS)


@pytest.mark.parametrize("reference", ["grpo-tta", OWN_SETTINGS])
@pytest.mark.parametrize("count", [4, 30])
def test_names_in_the_plot_of_costs_do_not_overlap(count: int, reference: str) -> None:
    figure = cost_plot(results(count), reference)
    check_texts(figure)
    (ax,) = figure.axes
    shown = {text.get_text() for text in ax.texts}
    assert short(reference) in shown
    assert len(shown) == 4 if count == 4 else len(shown) > 8
    assert all(len(line.get_xdata()) <= 1 for line in ax.lines)  # points alone  # type: ignore[arg-type]


def test_every_protocol_and_a_teacher_fit_above_the_plot_of_costs() -> None:
    found = results(9)
    for name, protocol in (("a-method-5", "batch"), ("a-method-6", "online")):
        found.methods[name] = replace(found.methods[name], protocol=protocol)
    check_texts(cost_plot(found, "grpo-tta"))


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
    assert clipped(figure, texts) == []
    shown = {text.split(" ", 1)[1] for text in texts}
    assert {"shifted mean", "source", "shifted", "real", "+30.0", "−10.0", "0.0"} <= shown
    markers = {line.get_marker() for line in ax.lines if len(line.get_xdata()) == 1}  # type: ignore[arg-type]
    assert markers == {"o", "s"}  # a loss is a square, whatever its colour
    assert not any(line.get_clip_on() for line in ax.lines if len(line.get_xdata()) == 1)  # type: ignore[arg-type]


def demo_rows(names: Sequence[str]) -> pd.DataFrame:
    """Zero-shot and `grpo-tta` on four images of each task: two repaired, one broken, one wrong throughout."""
    rows = []
    for name in names:
        labels = [nano.item(name, "reporting", i).label for i in range(4)]
        for method, answers in {"zero-shot": "0010", "grpo-tta": "1100"}.items():
            for i, (label, right, before) in enumerate(zip(labels, answers, "0010", strict=True)):
                other = (label + 1) % len(nano.TASKS[name].classes)
                given = record("sketch", method, 0, 0, "1")
                about = {"task": name, "kind": nano.TASKS[name].kind, "image_id": f"nano/{name}/reporting/{i:04d}"}
                answer = {
                    "prediction": label if right == "1" else other,
                    "prediction_before": label if before == "1" else other,
                }
                rows.append(replace(given, **about, order=i, label=label, **answer, confidence=1.0))
    return pd.DataFrame([vars(row) for row in rows])


@pytest.mark.parametrize("count", [1, 19])
def test_the_whole_figure_of_the_demo(count: int) -> None:
    """Of one task, and of all but the streams, whose names are as long as they get."""
    tasks = [task for task in nano_tasks(None, "reporting", 4) if task.kind != "stream"][-count:]
    rows = demo_rows([task.name for task in tasks])
    figure = demo_plot(rows, summarize(rows, {}), tasks, "nano-clip")
    check_texts(figure)
    titles = [text for text in boxes(figure) if "nano-clip, 4 images per task, seed 0" in text]
    assert len(titles) == 1


def test_the_figure_of_the_demo_says_where_no_answer_changed() -> None:
    tasks = nano_tasks(["fog"], "reporting", 4)
    rows = demo_rows(["fog"])
    figure = demo_plot(rows.assign(prediction_before=rows["prediction"]), summarize(rows, {}), tasks, "nano-clip")
    assert any(text.endswith("No answer changed") for text in boxes(figure))


@pytest.mark.parametrize("methods", [["zero-shot"], ["zero-shot", "tent", "grpo-tta"], ["zero-shot", "tent", OWN_SETTINGS]])
@pytest.mark.parametrize("count", [1, 3, 20])
def test_texts_in_the_plot_of_tasks_do_not_overlap(methods: list[str], count: int) -> None:
    entry = {"accuracy": 1.0, "ci95": [0.4, 1.0]}
    kinds = dict(list((KINDS | {LONG_TASK: "real"} | {f"task-{i}": "shifted" for i in range(count)}).items())[:count])
    tasks = [{"name": name, "kind": kind, "n": 4, "methods": dict.fromkeys(methods, entry)} for name, kind in kinds.items()]
    check_texts(shift_plot({"tasks": tasks}, bar_colours(methods[-1], "tent", methods)))


def test_texts_in_the_reliability_diagram_do_not_overlap() -> None:
    confidence = np.linspace(0.02, 1, 200)
    bins = reliability(confidence, confidence > 0.5)
    check_texts(reliability_plot({"before (frozen model)": (bins, 12.3), f"after ({OWN_SETTINGS})": (bins, 4.5)}))


def axis(kind: str, values: Sequence[str], **change: Any) -> pd.DataFrame:
    """One axis of a sweep; its first value is the base."""
    count = len(values)
    about = {"axis": "steps.optimizer.rate", "kind": kind, "value": list(values), "base": [True] + [False] * (count - 1)}
    difference = np.linspace(0, 3, count)
    numbers = {"difference": difference, "difference_low": difference - 1, "difference_high": difference + 1}
    return pd.DataFrame(about | numbers | {"over_control": difference / 2} | change)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("number", ["1", "2", "3"]),
        ("number", ["0.0001", "0.0003", "0.001", "0.003", "0.01", "0.03", "0.1", "0.3"]),
        ("number", ["8", "16", "24", "32", "48", "64", "96", "128"]),
        ("number", ["0", "0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]),
        ("choice", ["Target(temperature=1.0)"]),
        ("choice", ["TopK(5)", "Sample(5)"]),
        ("choice", ["TopK(5)", "Nucleus(mass=0.9, at_most=10)", "Nucleus(mass=0.99, at_most=10)", "Sample(5)"]),
        ("choice", [f"NormAffine(last_blocks={i})" for i in range(8)]),
    ],
)
def test_texts_in_the_plot_of_an_axis_do_not_overlap(kind: str, values: list[str]) -> None:
    check_texts(axis_plot(axis(kind, values)))
