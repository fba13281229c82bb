"""`grpo-tta report --leaderboard`: methods in the order of their accuracy, as a section of a Markdown page.

In the manner of RobustBench: a pure function of the records, and each row names the settings and the cost of its number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from grpo_tta.errors import UserError
from grpo_tta.report import tables
from grpo_tta.report.commands import OUT, Commands
from grpo_tta.report.grids import NONE, blocks_of, markdown_table, number
from grpo_tta.report.html import Runs, read_runs
from grpo_tta.report.summary import summarize
from grpo_tta.report.tables import MethodResult, Results
from grpo_tta.report.words import words_for

BEGIN, END = "<!-- leaderboard: made by grpo-tta report, changes are lost -->", "<!-- end of the leaderboard -->"
COLUMNS = ("place", "method", "protocol", "reward", "teacher", "passes", "ms", "accuracy", "95 % interval", "settings")


@final
@dataclass(frozen=True)
class Entry:
    """One row, as it is printed.

    Attributes:
        place: within its block; empty where it saw fewer tasks or images than the others.
        passes: forward, and backward where there are any, per image.
    """

    place: str
    method: str
    protocol: str
    reward: str
    teacher: str
    passes: str
    milliseconds: str
    accuracy: str
    interval: str
    settings: str

    def cells(self) -> tuple[str, ...]:
        start = (self.place, self.method, self.protocol, self.reward, self.teacher, self.passes)
        return (*start, self.milliseconds, self.accuracy, self.interval, self.settings)


def entries(results: Results, digests: Mapping[str, str], *, timed: bool) -> list[Entry]:
    """The rows: blocks of comparable methods one after the other, the best of each first.

    Args:
        results: of all methods.
        digests: method -> hash of its settings.
        timed: milliseconds are shown where they were measured.
    """
    rows: list[Entry] = []
    for block in blocks_of(results).values():
        ranked = [m for m in block if results.is_complete(m.name) and results.is_full(m.name)]
        means = [round(m.shifted_mean, 1) for m in ranked]
        rest = [m for m in block if m not in ranked]
        for m in sorted(ranked, key=lambda m: -m.shifted_mean) + sorted(rest, key=lambda m: -np.nan_to_num(m.shifted_mean)):
            place = str(1 + sum(mean > round(m.shifted_mean, 1) for mean in means)) if m in ranked else ""
            rows.append(_entry(m, place, digests[m.name], timed))
    return rows


def _entry(m: MethodResult, place: str, digest: str, timed: bool) -> Entry:
    passes = number(m.forwards, 1).removesuffix(".0")
    passes += f" + {number(m.backwards, 1).removesuffix('.0')}" if m.backwards > 0 else ""
    interval = NONE if np.isnan(m.shifted_low) else f"{number(m.shifted_low)}–{number(m.shifted_high)}"
    took = number(m.ms) if timed and not np.isnan(m.ms) else NONE
    return Entry(
        place=place,
        method=m.name,
        protocol=m.protocol,
        reward=m.reward,
        teacher=m.teacher_name or NONE,
        passes=passes,
        milliseconds=took,
        accuracy=number(m.shifted_mean),
        interval=interval,
        settings=f"`{digest}`",
    )


def section(runs: Runs, page: str, machine: str = "") -> str:
    """What stands between the two marks of a page, and the marks.

    Args:
        runs: the records, and what is known of them.
        page: name of the page, for the command that makes it.
        machine: on which milliseconds were measured; without it none are shown.
    """
    rows = runs.rows
    teachers = {name: declared.get("teacher") for name, declared in runs.methods.items()}
    found = tables.results(rows, summarize(rows, runs.cost), runs.cost, teachers)
    hashes = rows.groupby("method", sort=False)["settings_hash"].first()
    digests = {str(method): str(digest) for method, digest in hashes.items()}
    made = entries(found, digests, timed=bool(machine))
    words = words_for(found.kinds.values())
    lines = [BEGIN, "", _about(runs), ""]
    if commands := _commands(runs, found):
        lines += ["<!-- not run: it makes the records of this table -->", "```bash", commands]
        lines += [f"grpo-tta report {OUT} --leaderboard {page}", "```", ""]
    lines += [markdown_table(COLUMNS, [entry.cells() for entry in made], text=(1, 2, 3, 4, 9)), ""]
    lines += [f"- Accuracy is top-1 in %, the {words.mean}. The interval draws images, each with all its seeds."]
    lines += ["- Places are within one protocol, with or without a teacher. Methods that print the same number share a place."]
    lines += ["- Intervals that overlap leave the order open. The report compares two methods by their paired difference."]
    lines += ["- Passes are forward + backward ones per image. The settings behind a hash stand on the page of the report."]
    measured = f"are per image, each method timed alone on {machine}" if machine else "were not measured"
    lines += [f"- Milliseconds (ms) {measured}."]
    if any(not entry.place for entry in made):
        lines += ["- A method without a place saw fewer tasks or images than the others."]
    return "\n".join([*lines, "", END])


def _about(runs: Runs) -> str:
    """One sentence on what was measured."""
    rows = runs.rows
    counts = sorted(set(rows.groupby("task")["image_id"].nunique()))
    seeds = sorted(int(seed) for seed in rows["seed"].unique())
    tasks = [str(task) for task in rows["task"].unique()]
    images = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    named = f": {', '.join(tasks)}" if len(tasks) <= 20 else ""
    version = ", ".join(dict.fromkeys(text.split()[0].replace("=", " ") for text in runs.versions))
    about = f"Model {runs.about['model']}, n = {images} images per task, seed{'s' if len(seeds) > 1 else ''} "
    about += f"{', '.join(map(str, seeds))}, {version}."
    return f"{about} {len(tasks)} task{'s' if len(tasks) > 1 else ''}{named}."


def _commands(runs: Runs, found: Results) -> str:
    """The commands that make the records; empty where there are none that `report` could put together again."""
    teachers = {m.name: m.teacher_name for m in found.methods.values()}
    commands = Commands(runs.about["model"], runs.sources, teachers, runs.limits, runs.dtype)
    return commands.lines(list(found.kinds), list(found.methods), sorted(int(seed) for seed in runs.rows["seed"].unique()))


def write_leaderboard(folders: Sequence[Path], page: Path, *, machine: str = "") -> None:
    """Writes the section into a page: between its two marks, or into a new page of its own.

    Args:
        folders: of the runs.
        page: a Markdown file.
        machine: as of `section`.

    Raises:
        UserError: as `read_runs`; the page has no marks, or cannot be written.
    """
    made = section(read_runs(folders), page.name, machine)
    try:
        text = page.read_text(encoding="utf-8") if page.exists() else f"# Leaderboard\n\n{BEGIN}\n{END}\n"
        before, begin, rest = text.partition(BEGIN)
        _, end, after = rest.partition(END)
        if not (begin and end):
            raise UserError(f"{page} has no place for the leaderboard; put {BEGIN} and {END} into it, or name a new file.")
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(before + made + after, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{page}: no leaderboard can be written there ({error}); name another file.") from None
