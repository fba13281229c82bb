"""Tables and sentences on a terminal. Names and texts of users are never read as markup."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from grpo_tta.data.tasks import SHIFTED_MEAN
from grpo_tta.errors import counted
from grpo_tta.report.columns import Column, FittedTable
from grpo_tta.report.grids import Grid, number
from grpo_tta.report.summary import paired_difference
from grpo_tta.report.words import Words, words_for

SURELY = {"better": "green", "worse": "red"}
"""Colours of a difference whose interval excludes zero."""


_NAME = 16
"""Characters to which a name of a method, task or setting may be narrowed."""


def grid_table(grid: Grid) -> FittedTable:
    """A grid of the report; blocks are set apart by rules."""
    columns = [Column(label, _NAME if c.is_text else None) for label, c in zip(grid.labels(), grid.columns, strict=True)]
    table = FittedTable([Column("method", _NAME, key=True), *columns], title=grid.caption)
    for block in grid.blocks:
        table.add_row(Text(block.title, "dim italic"))
        for name, cells in block.rows:
            table.add_row(name, *(Text(cell.text, "bold" if cell.best else "") for cell in cells))
        table.add_section()
    return table


def _accuracy(entry: Mapping[str, Any], best: bool) -> Text:
    low, high = entry["ci95"]
    accuracy = Text(f"{100 * entry['accuracy']:.1f}").append(f" {100 * low:.0f}–{100 * high:.0f}", "dim")
    if best:
        accuracy.stylize("bold")
    return accuracy


def summary_table(summary: Mapping[str, Any], cost: Mapping[str, Mapping[str, float]]) -> FittedTable:
    """Accuracy in percent with its 95 % interval, per task and method, and what each method costs.

    Args:
        summary: of `summary.summarize`.
        cost: method -> {"ms": ..., "peak_memory_mb": ...}.
    """
    names = list(summary["methods"])
    columns = [Column("task", _NAME, key=True), Column("kind", _NAME, style="dim"), Column("n"), *map(Column, names)]
    table = FittedTable(columns, title="Top-1 accuracy in % with 95 % interval")

    def accuracies(entries: Mapping[str, Mapping[str, Any]]) -> list[Text]:
        top = max(entry["accuracy"] for entry in entries.values())
        return [_accuracy(entries[name], entries[name]["accuracy"] == top) for name in names]

    for task in summary["tasks"]:
        table.add_row(task["name"], task["kind"], str(task["n"]), *accuracies(task["methods"]))
    table.add_section()
    if means := summary["shifted_mean"]:
        count = next(iter(means.values()))["tasks"]
        words = words_for([task["kind"] for task in summary["tasks"]])
        table.add_row(Text(words.mean, "bold"), counted(count, "task"), "", *accuracies(means))
        table.add_section()
    passes = [fmean(task["methods"][name]["forwards"] for task in summary["tasks"]) for name in names]
    table.add_row("forward passes", "per image", "", *[f"{mean:.0f}" for mean in passes])
    for key, title, unit in (("ms", "milliseconds", "per image"), ("peak_memory_mb", "peak memory, MB", "")):
        values = [cost.get(name, {}).get(key) for name in names]
        table.add_row(title, unit, "", *["?" if value is None else f"{value:.1f}" for value in values])
    return table


def points_table(points: pd.DataFrame, mean: str) -> FittedTable:
    """The points of a sweep, axis by axis.

    Args:
        points: of `sweep.sweep_table`, with a column `surely` (see `SURELY`).
        mean: what the accuracies are a mean over.
    """
    texts = [Column("axis", _NAME, key=True), Column("value", _NAME, key=True)]
    numbers = ("%", "to base", "95 % interval to base", "over control", "95 % interval over control", "fwd", "ms", "errors")
    table = FittedTable([*texts, *map(Column, numbers)], title=f"Sweep on the tuning split, {mean}")
    for axis, of_axis in points.groupby("axis", sort=False):
        for place, row in enumerate(of_axis.to_dict("records")):
            table.add_row(
                str(axis) if place == 0 else "",
                f"{row['value']} (base)" if row["base"] else str(row["value"]),
                number(row["accuracy"]),
                Text(number(row["difference"], 1, True), SURELY.get(row["surely"], "")),
                _interval(row, "difference"),
                number(row["over_control"], 1, True),
                _interval(row, "over_control"),
                number(row["forwards"], 0),
                number(row["milliseconds"]),
                str(row["errors"]),
            )
        table.add_section()
    return table


def _interval(row: Mapping[Any, Any], name: str) -> str:
    return f"{number(row[f'{name}_low'], 1, True)} to {number(row[f'{name}_high'], 1, True)}"


def difference_line(method: str, other: str, points: float, detail: str, mean: str = Words.mean) -> Text:
    """One paired difference of two methods, in points of `mean`."""
    line = Text(f"{method} − {other}: ").append(number(points, 1, True), "bold")
    return line.append(f" points on the {mean} ").append(f"({detail})", "dim")


def print_comparisons(comparisons: pd.DataFrame, console: Console, mean: str = Words.mean) -> None:
    """The rows of `tables.comparisons`, a line each, in points of `mean`."""
    for row in comparisons.to_dict("records"):
        detail = f"{_spread(row['low'], row['high'])}; {row['wins']} won, {row['losses']} lost, p = {p_value(row['p_value'])}"
        console.print(difference_line(row["method"], row["other"], row["difference"], detail, mean))


def print_differences(rows: pd.DataFrame, method: str, console: Console) -> None:
    """The paired differences of a method to every other one, where the records hold shifted tasks."""
    if not rows["kind"].isin(SHIFTED_MEAN).any():
        return
    mean = words_for(set(rows["kind"])).mean
    for other in rows["method"].drop_duplicates():
        if other != method:
            found = paired_difference(rows, method, other)
            low, high = (100 * x for x in found["ci95"])
            detail = f"{_spread(low, high)}, same images"
            console.print(difference_line(method, other, 100 * found["difference"], detail, mean))


def _spread(low: float, high: float) -> str:
    return f"95 % interval {number(low, 1, True)} to {number(high, 1, True)}"


def p_value(p: float) -> str:
    """Two digits, with a true minus sign in the exponent."""
    return f"{p:.2g}".replace("-", "−")


def print_errors(count: int, where: str, console: Console) -> None:
    """How many rows hold an error, if any do, and where they can be read."""
    if count:
        hold = "holds an error and counts" if count == 1 else "hold an error and count"
        console.print(Text(f"{counted(count, 'row')} {hold} as wrong; see {where}.", "red"))
