"""Tables that fit the terminal: what is too wide is wrapped, stacked in a further table, or left out and named.

No number is cut. Rich alone narrows columns until numbers end in "…" and columns vanish.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

Cell = str | Text
"""Never read as markup."""
_BESIDE, _FRAME = 3, 1
"""Characters that a column takes beside its text, and those of the frame's right side."""
_WORD = 20
"""Longer words may be broken where room is short: paths, mostly."""


@final
@dataclass(frozen=True)
class Column:
    """
    Attributes:
        name: its heading, which may be wrapped at blanks.
        least: characters to which text may be narrowed by wrapping it; None for numbers, which are never wrapped.
        key: it stands in every part of a table that is stacked.
        leave_out: 0, or its place in the order in which columns are left out, from 1 on, before a table is stacked.
        style: of rich.
    """

    name: str
    least: int | None = None
    key: bool = False
    leave_out: int = 0
    style: str = ""


@final
class FittedTable:
    """Rows of one table, printed in as many parts as the width asks for."""

    def __init__(self, columns: Sequence[Column], *, title: str = "", elsewhere: str = "") -> None:
        """
        Args:
            columns: of one name the second gets a number.
            title: stands above.
            elsewhere: what shows the columns that were left out, such as an option.
        """
        self._columns: list[Column] = []
        seen: Counter[str] = Counter()
        for column in columns:
            seen[column.name] += 1
            self._columns.append(replace(column, name=f"{column.name} ({n})") if (n := seen[column.name]) > 1 else column)
        self._title, self._elsewhere = title, elsewhere
        self._rows: list[tuple[Text, ...]] = []
        self._ends: set[int] = set()

    def add_row(self, *cells: Cell) -> None:
        """The first cells of a row; the others stay empty."""
        texts = [cell if isinstance(cell, Text) else Text(cell) for cell in cells]
        self._rows.append((*texts, *(Text() for _ in range(len(self._columns) - len(cells)))))

    def add_section(self) -> None:
        """A rule below the last row."""
        self._ends.add(len(self._rows) - 1)

    def print(self, console: Console) -> None:
        """Prints the table, in parts if need be, and a line on what was left out."""
        least = [self._least(number) for number in range(len(self._columns))]
        parts, left_out = self._parts(least, console.width)
        for place, part in enumerate(parts):
            names = ", ".join(self._columns[number].name for number in part if not self._columns[number].key)
            title = self._title if place == 0 else f"{self._title or 'The same rows'}, continued: {names}"
            widths = self._widths(part, least, console.width)
            if title:
                console.print(Text(title, "italic"))
            console.print(_Whole(self._table(part, widths), _total(widths)), crop=False)
        if left_out:
            names = ", ".join(self._columns[number].name for number in left_out)
            line = f"Not shown in {console.width} columns: {names}. A wider terminal shows more"
            console.print(Text(f"{line}{f', and {self._elsewhere} all' if self._elsewhere else ''}.", "dim"))

    def _table(self, part: Sequence[int], widths: Sequence[int]) -> Table:
        table = Table(header_style="bold")
        for number, width in zip(part, widths, strict=True):
            column = self._columns[number]
            justify: Literal["left", "right"] = "right" if column.least is None else "left"
            table.add_column(Text(column.name), justify=justify, width=width, overflow="fold", style=column.style)
        for place, row in enumerate(self._rows):
            table.add_row(*(row[number] for number in part), end_section=place in self._ends)
        return table

    def _parts(self, least: Sequence[int], width: int) -> tuple[list[list[int]], list[int]]:
        """The columns of each part, and those that are left out."""
        keys = [number for number, column in enumerate(self._columns) if column.key]
        others = [number for number, column in enumerate(self._columns) if not column.key]

        def fits(part: Sequence[int]) -> bool:
            return _total([least[number] for number in part]) <= width

        left_out: list[int] = []
        for number in sorted((n for n in others if self._columns[n].leave_out), key=lambda n: self._columns[n].leave_out):
            if fits([*keys, *others]):
                break
            others.remove(number)
            left_out.append(number)
        parts = [list(keys)]
        for number in others:
            if len(parts[-1]) > len(keys) and not fits([*parts[-1], number]):
                parts.append(list(keys))
            parts[-1].append(number)
        return [sorted(part) for part in parts], left_out

    def _widths(self, part: Sequence[int], least: Sequence[int], width: int) -> list[int]:
        """Of each column: the least, and of what is left each time one more for the column that lacks most."""
        widths = [least[number] for number in part]
        words = [min(self._longest(number, words=True), _WORD) for number in part]
        rows = [self._longest(number) for number in part]
        headings = [cell_len(self._columns[number].name) for number in part]
        left = width - _total(widths)
        for wanted in (words, rows, headings):  # first come whole words; a heading gets what the rows do not need
            while left > 0:
                most = max(range(len(part)), key=lambda place: wanted[place] - widths[place])
                if wanted[most] <= widths[most]:
                    break
                widths[most] += 1
                left -= 1
        return widths

    def _longest(self, number: int, *, words: bool = False) -> int:
        """Characters of a column's longest line, or of its longest word."""
        texts = (row[number].plain for row in self._rows)
        return max((cell_len(piece) for text in texts for piece in (text.split() if words else text.split("\n"))), default=0)

    def _least(self, number: int) -> int:
        column = self._columns[number]
        content = self._longest(number)
        heading = max(map(cell_len, column.name.split()), default=0)
        return max(content if column.least is None else min(content, column.least), heading)


@final
@dataclass(frozen=True)
class _Whole:
    """A table of its own width where the terminal is narrower than one number beside the key."""

    table: Table
    width: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self.table, options.update_width(max(self.width, options.max_width)))


def _total(widths: Sequence[int]) -> int:
    return sum(width + _BESIDE for width in widths) + _FRAME
