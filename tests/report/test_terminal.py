"""Tables on a terminal: names are shown as they are, not read as markup."""

from __future__ import annotations

import io

import pandas as pd
from rich.console import Console

from grpo_tta.report.columns import FittedTable
from grpo_tta.report.terminal import difference_line, points_table, print_comparisons, summary_table

NAME = "[red]x[/red]"


def printed(shown: object) -> str:
    console = Console(file=io.StringIO(), width=200)
    if isinstance(shown, FittedTable):
        shown.print(console)
    else:
        console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def summary() -> FittedTable:
    entry = {"accuracy": 0.5, "ci95": [0.25, 0.75], "forwards": 3.0}
    found = {
        "tasks": [{"name": NAME, "kind": "shifted", "n": 4, "methods": {NAME: entry}}],
        "methods": {NAME: {}},
        "shifted_mean": {NAME: {**entry, "tasks": 1}},
    }
    return summary_table(found, {NAME: {"ms": 1.25, "peak_memory_mb": 100.0}})


def test_the_table_of_a_summary() -> None:
    lines = printed(summary()).splitlines()
    assert sum(NAME in line for line in lines) == 2  # the method above, the task beside
    assert any("50.0 25–75" in line and "shifted mean" in line for line in lines)
    assert any("forward passes" in line and "per image" in line and " 3 " in line for line in lines)
    assert any("milliseconds" in line and "1.2" in line for line in lines)


def test_the_table_of_a_sweep() -> None:
    numbers = ("accuracy", "difference", "over_control", "forwards", "milliseconds")
    point = dict.fromkeys(numbers, 1.5) | {
        f"{n}_{side}": 1.0 for n in ("difference", "over_control") for side in ("low", "high")
    }
    points = [
        {**point, "axis": NAME, "value": value, "base": value == "1", "surely": surely, "errors": 0}
        for value, surely in (("1", ""), ("[b]", "better"))
    ]
    text = printed(points_table(pd.DataFrame(points), "mean over 1 task"))
    assert text.count(NAME) == 1  # an axis is named once
    assert "1 (base)" in text
    assert "[b]" in text
    assert "+1.0 to +1.0" in text


def test_a_difference_is_one_line() -> None:
    assert printed(difference_line("a", NAME, 1.25, "n = 3")) == f"a − {NAME}: +1.2 points on the shifted mean (n = 3)\n"


def test_minus_signs_are_true_ones() -> None:
    found = {"method": "a", "other": "b", "difference": -1.5, "low": -2.0, "high": -1.0, "wins": 1, "losses": 3}
    console = Console(file=io.StringIO(), width=200)
    print_comparisons(pd.DataFrame([found | {"p_value": 1.25e-7}]), console)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == (
        "a − b: −1.5 points on the shifted mean (95 % interval −2.0 to −1.0; 1 won, 3 lost, p = 1.2e−07)\n"
    )
