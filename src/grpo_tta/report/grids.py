"""Tables as they are shown: one `Grid`, rendered as Markdown and LaTeX here.

`terminal` prints it and the template makes it HTML.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from grpo_tta.data.tasks import SHIFTED_MEAN
from grpo_tta.report.tables import ZERO_SHOT, MethodResult, Results
from grpo_tta.report.words import words_for

PROTOCOLS = {"episodic": "Episodic", "batch": "Per batch", "online": "Online"}
NONE = "–"
MOST_TASKS = 8
"""A page shows more tasks than that as rows, since their columns would not fit."""
METHODS_ABREAST = 14
"""Columns of one such table."""


@final
@dataclass(frozen=True)
class Cell:
    """One cell: its text, whether it is the best of its block, and a note that shows under the pointer."""

    text: str
    best: bool = False
    note: str = ""


@final
@dataclass(frozen=True)
class Column:
    label: str
    group: str = ""
    is_text: bool = False


@final
@dataclass(frozen=True)
class Block:
    """Methods that may be compared with each other; `rows` are (method, cells)."""

    title: str
    rows: list[tuple[str, list[Cell]]]


@final
@dataclass(frozen=True)
class Grid:
    """Rows are methods, or whatever `corner` says."""

    caption: str
    columns: list[Column]
    blocks: list[Block]
    corner: str = "method"

    def groups(self) -> list[tuple[str, int]]:
        """Runs of columns under one heading: (heading, how many)."""
        out: list[tuple[str, int]] = []
        for column in self.columns:
            if out and out[-1][0] == column.group:
                out[-1] = (column.group, out[-1][1] + 1)
            else:
                out.append((column.group, 1))
        return out

    def labels(self) -> list[str]:
        """Column labels where headings are not shown: preceded by them if the labels alone are ambiguous."""
        ambiguous = len({column.label for column in self.columns}) < len(self.columns)
        return [f"{column.group} {column.label}" if ambiguous else column.label for column in self.columns]


def number(value: float, digits: int = 1, sign: bool = False) -> str:
    """Rounded, with a true minus sign, and no sign before a zero."""
    if np.isnan(value):
        return NONE
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("+-")


def blocks_of(results: Results) -> dict[str, list[MethodResult]]:
    """Title -> methods: zero-shot first, then by rising shifted mean, so that reading down is getting better."""
    out: dict[str, list[MethodResult]] = {}
    for protocol, title in PROTOCOLS.items():
        for teacher, suffix in ((False, ""), (True, ", with a teacher")):
            mine = [m for m in results.methods.values() if (m.protocol, m.teacher) == (protocol, teacher)]
            if mine:
                out[title + suffix] = sorted(mine, key=lambda m: (m.name != ZERO_SHOT, np.nan_to_num(m.shifted_mean)))
    return out


def _is_best(value: float, values: Iterable[float]) -> bool:
    """Whether a value is the highest as printed, of at least two; a tie is shown as one."""
    known = [v for v in values if not np.isnan(v)]
    return len(known) > 1 and round(value, 1) == round(max(known), 1)


def _accuracy_cell(results: Results, task: str, method: MethodResult, block: Sequence[MethodResult]) -> Cell:
    value = method.accuracy.get(task, np.nan)
    others = [m.accuracy.get(task, np.nan) for m in block if results.is_full(m.name)]
    return Cell(number(value), results.is_full(method.name) and _is_best(value, others))


def _mean_cell(results: Results, method: MethodResult, block: Sequence[MethodResult], interval: bool = False) -> Cell:
    """The shifted mean; daggers mark one over fewer tasks (†) or images (‡), which is never the best of its block."""
    low, high = number(method.shifted_low), number(method.shifted_high)
    if np.isnan(method.shifted_mean):
        return Cell(NONE)
    mark = "†" if not results.is_complete(method.name) else "" if results.is_full(method.name) else "‡"
    text = number(method.shifted_mean) + mark + (f" ({low}–{high})" if interval else "")
    others = [m.shifted_mean for m in block if results.is_complete(m.name) and results.is_full(m.name)]
    return Cell(text, not mark and _is_best(method.shifted_mean, others), f"95 % interval {low} to {high}")


COST_COLUMNS = [Column(label, "cost per image") for label in ("fwd", "bwd", "ms", "MB")]


def _cost_cells(method: MethodResult) -> list[Cell]:
    passes = [Cell(number(method.forwards, 0)), Cell(number(method.backwards, 0))]
    return [*passes, Cell(number(method.ms)), Cell(number(method.peak_memory_mb, 0))]


def accuracy_grid(results: Results) -> Grid:
    """The field's layout: methods as rows, tasks as columns, the mean over shifted tasks, cost."""
    tasks = results.tasks("source", *SHIFTED_MEAN)
    columns = [Column("reward", is_text=True), *(Column(task, results.kinds[task]) for task in tasks)]
    columns += [Column(words_for(results.kinds.values()).adjective.strip() or "all", "mean"), *COST_COLUMNS, Column("errors")]
    blocks = []
    for title, block in blocks_of(results).items():
        rows = []
        for m in block:
            cells = [Cell(m.scored_by), *(_accuracy_cell(results, task, m, block) for task in tasks)]
            cells.append(_mean_cell(results, m, block))
            rows.append((m.name, [*cells, *_cost_cells(m), Cell(str(m.errors))]))
        blocks.append(Block(title, rows))
    return Grid("Top-1 accuracy in % (best of each block marked)", columns, blocks)


def task_grids(results: Results) -> list[Grid]:
    """The numbers of `accuracy_grid` with tasks as rows, for many tasks: a table for each block of methods, or more."""
    caption = "Top-1 accuracy in % per task (best of each row and block marked)"
    mean = words_for(results.kinds.values()).mean
    grids = []
    for title, block in blocks_of(results).items():
        for start in range(0, len(block), METHODS_ABREAST):
            shown = block[start : start + METHODS_ABREAST]
            blocks = []
            for kind in ("source", *SHIFTED_MEAN):
                rows = [(task, [_accuracy_cell(results, task, m, block) for m in shown]) for task in results.tasks(kind)]
                blocks += [Block(kind, rows)] if rows else []
            summary = [(mean, [_mean_cell(results, m, block) for m in shown])]
            summary += [(column.label, [_cost_cells(m)[place] for m in shown]) for place, column in enumerate(COST_COLUMNS)]
            summary.append(("errors", [Cell(str(m.errors)) for m in shown]))
            blocks.append(Block("mean, and cost per image", summary))
            part = f"{caption}: {title[:1].lower()}{title[1:]} methods" + (", continued" if start else "")
            grids.append(Grid(part, [Column(m.name) for m in shown], blocks, "task"))
    return grids


def compact_grid(results: Results, ece: Mapping[str, float]) -> Grid:
    """One row per method that fits a terminal: means by kind, the shifted mean with its interval, calibration, cost.

    Args:
        results: of all methods.
        ece: method -> calibration error in percent over the shifted tasks.
    """
    kinds = [kind for kind in ("source", *SHIFTED_MEAN) if results.tasks(kind)]
    words = words_for(results.kinds.values())
    if kinds == ["real"]:
        kinds = []  # the same as the mean
    columns = [Column("reward", is_text=True), *(Column(kind) for kind in kinds), Column(words.mean), Column("ECE")]
    columns += [Column(column.label) for column in COST_COLUMNS] + [Column("images"), Column("errors")]

    def of_kind(method: MethodResult, kind: str) -> float:
        return float(np.mean([method.accuracy.get(task, np.nan) for task in results.tasks(kind)]))

    blocks = []
    for title, block in blocks_of(results).items():
        rows = []
        for m in block:
            cells = [Cell(m.scored_by)]
            for kind in kinds:
                value = of_kind(m, kind)
                others = [of_kind(other, kind) for other in block if results.is_full(other.name)]
                cells.append(Cell(number(value), results.is_full(m.name) and _is_best(value, others)))
            cells += [_mean_cell(results, m, block, interval=True), Cell(number(ece.get(m.name, np.nan)))]
            rows.append((m.name, [*cells, *_cost_cells(m), Cell(str(m.images)), Cell(str(m.errors))]))
        blocks.append(Block(title, rows))
    mean = "mean over the tasks of a kind" if kinds else "mean over the tasks"
    return Grid(f"Top-1 accuracy in %, {mean} (in brackets the 95 % interval)", columns, blocks)


def stream_grid(results: Results, entropy: Mapping[tuple[str, str], float]) -> Grid:
    """Streams: accuracy, difference to zero-shot in points, and the entropy of the histogram of predictions.

    Args:
        results: of all methods.
        entropy: (method, task) -> entropy over log C.
    """
    tasks = results.tasks("stream")
    columns = [Column(label, task) for task in tasks for label in ("%", "to zero-shot", "entropy")]
    zero = results.methods[ZERO_SHOT].accuracy if ZERO_SHOT in results.methods else {}
    blocks = []
    for title, everyone in blocks_of(results).items():
        block = [m for m in everyone if any(task in m.accuracy for task in tasks)]
        rows = []
        for m in block:
            cells = []
            for task in tasks:
                gain = m.accuracy.get(task, np.nan) - zero.get(task, np.nan)
                cells.append(_accuracy_cell(results, task, m, block))
                cells.append(Cell(NONE if m.name == ZERO_SHOT else number(gain, sign=True)))
                cells.append(Cell(number(entropy.get((m.name, task), np.nan), 2)))
            rows.append((m.name, cells))
        if rows:
            blocks.append(Block(title, rows))
    return Grid("Streams (in no mean): top-1 accuracy in %, points to zero-shot, entropy of the predictions", columns, blocks)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], text: Collection[int]) -> str:
    """A pipe table; the columns whose places are in `text` hold words, the others numbers."""
    marks = [":--" if place in text else "--:" for place in range(len(columns))]
    return "\n".join(map(_line, [columns, marks, *rows]))


def markdown(grid: Grid) -> str:
    """A pipe table under its caption; blocks begin with a line in italics."""
    width = len(grid.columns)
    rows: list[list[str]] = []
    for block in grid.blocks:
        rows.append([f"*{block.title}*", *[""] * width])
        rows += [[name, *(f"**{c.text}**" if c.best else c.text for c in cells)] for name, cells in block.rows]
    return f"**{grid.caption}**\n\n{markdown_table(['method', *grid.labels()], rows, (0,))}\n"


def _tex(text: str) -> str:
    """Text with the characters that LaTeX reads as commands written out."""
    for character in "&%#_$":
        text = text.replace(character, f"\\{character}")
    return text.replace("–", "--").replace("†", "$^\\dagger$").replace("‡", "$^\\ddagger$").replace("−", "$-$")


def latex(grid: Grid) -> str:
    """A booktabs table; needs the packages booktabs and graphicx."""
    span = len(grid.columns) + 1
    heading = [
        f"\\multicolumn{{{count}}}{{c}}{{{_tex(title)}}}" if title else "&" * (count - 1) for title, count in grid.groups()
    ]
    labels = ["method", *(f"\\rotatebox{{90}}{{{_tex(c.label)}}}" for c in grid.columns)]
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_tex(grid.caption)}}}",
        f"\\begin{{tabular}}{{l{'r' * len(grid.columns)}}}",
        "\\toprule",
        " & ".join(["", *heading]) + " \\\\",
        " & ".join(labels) + " \\\\",
    ]
    for block in grid.blocks:
        lines += ["\\midrule", f"\\multicolumn{{{span}}}{{l}}{{\\emph{{{_tex(block.title)}}}}} \\\\"]
        for name, cells in block.rows:
            texts = [f"\\textbf{{{_tex(c.text)}}}" if c.best else _tex(c.text) for c in cells]
            lines.append(" & ".join([_tex(name), *texts]) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}", ""])
