"""Tables that fit: nothing is cut at any width, and what is left out is named."""

from __future__ import annotations

import io

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from grpo_tta.report.columns import Column, FittedTable


def printed(table: FittedTable, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    table.print(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_text_is_wrapped_before_anything_else() -> None:
    table = FittedTable([Column("name", 5, key=True), Column("%")])
    table.add_row("one two three", "12.5")
    assert printed(table, 16).splitlines() == [
        "┏━━━━━━━┳━━━━━━┓",
        "┃ name  ┃    % ┃",
        "┡━━━━━━━╇━━━━━━┩",
        "│ one   │ 12.5 │",
        "│ two   │      │",
        "│ three │      │",
        "└───────┴──────┘",
    ]


def test_columns_that_may_be_left_out_go_in_their_order_and_are_named() -> None:
    columns = [Column("k", key=True), Column("a", leave_out=2), Column("b", leave_out=1), Column("c")]
    table = FittedTable(columns, elsewhere="--json")
    table.add_row("11111", "22222", "33333", "44444")
    assert "Not shown" not in printed(table, 33)
    for width, gone in ((32, "b"), (25, "b"), (24, "b, a")):
        text = printed(table, width)
        assert f"Not shown in {width} columns: {gone}. " in " ".join(text.split())
        assert " ".join(text.split()).endswith("A wider terminal shows more, and --json all.")
        assert ("22222" in text) == ("a" not in gone)
        assert "33333" not in text


def test_the_other_columns_are_stacked_beside_their_key() -> None:
    table = FittedTable([Column("k", key=True), Column("a"), Column("b"), Column("c")], title="T")
    table.add_row("1", "22222", "33333", "44444")
    first, second = printed(table, 21).split("T, continued: c")
    assert first.startswith("T")
    assert "22222" in first
    assert "33333" in first
    assert "44444" in second
    assert "k" in second


def test_two_columns_never_have_one_name() -> None:
    table = FittedTable([Column("a", key=True), Column("b"), Column("b"), Column("b")])
    assert printed(table, 80).splitlines()[1].split() == ["┃", "a", "┃", "b", "┃", "b", "(2)", "┃", "b", "(3)", "┃"]


def test_a_terminal_narrower_than_a_number_shows_it_all_the_same() -> None:
    table = FittedTable([Column("k", key=True), Column("n")])
    table.add_row("1", "123456789012345")
    assert "123456789012345" in printed(table, 10)


WORDS = st.text("ab c日", max_size=30)
NUMBERS = st.integers(-(10**6), 10**9).map(lambda n: f"{n / 10:,.1f} %".replace("-", "−"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS, NUMBERS, NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=4), st.integers(30, 140))
def test_no_number_is_cut(rows: list[tuple[str, ...]], width: int) -> None:
    columns = [Column("image", 8, key=True), Column("some label", 8), *(Column(f"n{i}") for i in range(4))]
    table = FittedTable(columns)
    for row in rows:
        table.add_row(*row)
    text = printed(table, width)
    assert all(number in text for row in rows for number in row[2:])
    assert "…" not in text
    assert all(name in text for name in ("image", "label", "n0", "n1", "n2", "n3"))
    assert all(cell_len(line) <= width for line in text.splitlines())
