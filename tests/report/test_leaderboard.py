"""The leaderboard of runs whose numbers can be checked by hand, and the page that holds it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from grpo_tta.bench.records import part_path, write_json, write_part
from grpo_tta.cli.main import app
from grpo_tta.errors import UserError
from grpo_tta.report.html import read_runs
from grpo_tta.report.leaderboard import BEGIN, COLUMNS, END, section, write_leaderboard
from tests.report.test_report import KINDS, rows_of, write_run


def table(text: str) -> dict[str, dict[str, str]]:
    """Method -> column -> cell, in the order of the rows."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert tuple(lines[0]) == COLUMNS
    return {line[1]: dict(zip(COLUMNS, line, strict=True)) for line in lines[2:]}


def test_the_rows_by_hand(tmp_path: Path) -> None:
    """sketch 62.5 and photos 50 of grpo-tta over two seeds make 56.25, and the streams do not count."""
    text = section(read_runs([write_run(tmp_path / f"run{seed}", seed) for seed in (0, 1)]), "page.md")
    found = table(text)
    assert list(found) == ["grpo-tta", "zero-shot", "zero"]
    assert [row["place"] for row in found.values()] == ["1", "2", "2"]  # level
    ours = found["grpo-tta"]
    assert (ours["protocol"], ours["reward"], ours["teacher"], ours["passes"]) == ("episodic", "own", "–", "128")
    assert ours["settings"] == "`aaa`"
    assert ours["accuracy"] == "56.2"
    low, high = map(float, ours["95 % interval"].split("–"))
    assert low < 56.2 < high
    assert "Model nano-clip, n = 2 to 4 images per task, seeds 0, 1, grpo-tta 0.1.0. 4 tasks: source, sketch" in text
    assert "--methods zero-shot,zero,grpo-tta --seeds 0,1 --out runs/again" in text
    assert "grpo-tta report runs/again --leaderboard page.md" in text


def test_milliseconds_come_with_a_machine(tmp_path: Path) -> None:
    runs = read_runs([write_run(tmp_path / f"run{seed}", seed) for seed in (0, 1)])
    without = section(runs, "page.md")
    assert {row["ms"] for row in table(without).values()} == {"–"}
    assert "Milliseconds (ms) were not measured." in without
    text = section(runs, "page.md", machine="two cores of a laptop")
    assert {row["ms"] for row in table(text).values()} == {"2.5"}
    assert "each method timed alone on two cores of a laptop." in text


def test_teachers_and_other_protocols_are_places_of_their_own_and_a_part_has_none(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 0)
    info = json.loads((run / "run.json").read_text())
    info["methods"]["zero"] |= {"reward": "teacher", "teacher": "ViT-L-14/openai"}
    write_json(run / "run.json", info)
    for task in KINDS:
        rows = [replace(r, reward="teacher", backwards=1.5) if r.method == "zero" else r for r in rows_of(task)]
        write_part(part_path(run, task, 0), rows)
    text = section(read_runs([run]), "page.md")
    zero = table(text)["zero"]
    assert (zero["place"], zero["teacher"], zero["reward"]) == ("1", "ViT-L-14/openai", "teacher")
    assert zero["passes"] == "64 + 1.5"
    assert "--methods zero-shot,zero,grpo-tta --teacher ViT-L-14/openai --out runs/again" in text
    assert "without a place" not in text
    for task in KINDS:  # the first two images of each task alone
        write_part(part_path(run, task, 0), [r for r in rows_of(task) if r.method != "zero" or r.order < 2])
    part = section(read_runs([run]), "page.md")
    assert table(part)["zero"]["place"] == ""
    assert "A method without a place saw fewer tasks or images than the others." in part


def test_a_page_keeps_what_stands_around_its_leaderboard(tmp_path: Path) -> None:
    run, page = write_run(tmp_path / "run", 0), tmp_path / "pages" / "page.md"
    write_leaderboard([run], page)
    first = page.read_text()
    assert first.startswith(f"# Leaderboard\n\n{BEGIN}\n")
    page.write_text(
        first.replace("# Leaderboard", "# Ours\n\nWords.").replace("grpo-tta | episodic", "x | y") + "\nMore words.\n"
    )
    write_leaderboard([run], page)  # the same records, the same section
    assert page.read_text() == first.replace("# Leaderboard", "# Ours\n\nWords.") + "\nMore words.\n"
    page.write_text(f"# Ours\n\n{BEGIN}\n")
    with pytest.raises(UserError, match=r"has no place for the leaderboard; put .* and .* into it, or name a new file"):
        write_leaderboard([run], page)
    assert page.read_text() == f"# Ours\n\n{BEGIN}\n"
    with pytest.raises(UserError, match="no leaderboard can be written there"):
        write_leaderboard([run], tmp_path)


def test_the_command_writes_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 0)
    words = ["report", str(run), "--leaderboard", str(tmp_path / "page.md"), "--machine", "one core"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "page.md").read_text()
    assert END in text
    assert "timed alone on one core." in text
