"""`grpo-tta report`: from the records of one or more runs to tables, figures and one page. A pure function of its input."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pandas as pd
from rich.console import Console

from grpo_tta.bench.records import find_runs, read_records, read_run, write_json
from grpo_tta.data.tasks import SHIFTED_MEAN
from grpo_tta.errors import UserError
from grpo_tta.report import tables
from grpo_tta.report.commands import Commands
from grpo_tta.report.embed import data_uri
from grpo_tta.report.figures import bar_colours, cost_figure, reliability_figure, shift_figure
from grpo_tta.report.gallery import OUTCOMES, Material, make_gallery
from grpo_tta.report.grids import (
    MOST_TASKS,
    accuracy_grid,
    compact_grid,
    latex,
    markdown,
    number,
    stream_grid,
    task_grids,
)
from grpo_tta.report.pages import environment
from grpo_tta.report.statistics import calibration_error, reliability
from grpo_tta.report.summary import is_correct, summarize
from grpo_tta.report.sweep import is_sweep, write_sweep_report
from grpo_tta.report.terminal import grid_table, p_value, print_comparisons, print_errors
from grpo_tta.report.words import words_for

CLASSES_SHOWN = 20
"""Classes of a task that stand on the page from either end, where there are more."""
MUST_AGREE = ("model", "fingerprint", "views")
"""What runs must share for their rows to stand in one table; seeds, tasks, methods and shards may differ."""


@final
@dataclass(frozen=True)
class Runs:
    """What is known of all the runs together.

    Attributes:
        rows: of all runs, in the order of the tables.
        cost: method -> mean milliseconds per image and highest peak memory over the runs.
        about: `model`, `views` and the like, the same in all runs.
        methods: method -> its declaration in `run.json`.
        classes: task -> class names, in the order of the labels.
        sources: task -> where it comes from (`Task.source`).
        images: task -> hash of its images (`images_hash`), where a run states it.
        limits: method -> images per task, where it was given fewer than the others.
        dtype: of the frozen visual encoder.
        versions: of the software, each once.
        unfinished: a sentence on every task that a run has not finished.
        notes: what was left out of the data, a sentence each.
    """

    rows: pd.DataFrame
    cost: dict[str, dict[str, float]]
    about: dict[str, Any]
    methods: dict[str, Any]
    classes: dict[str, list[str]]
    sources: dict[str, dict[str, Any]]
    images: dict[str, str]
    limits: dict[str, int]
    dtype: str
    versions: list[str]
    unfinished: list[str]
    notes: list[str]


def read_runs(folders: Sequence[Path]) -> Runs:
    """
    Raises:
        UserError: no run, a folder without records or `run.json` or of another version, runs of different models, views or
            classes, or one method under different settings.
    """
    if not folders:
        raise UserError("No run was named; give the --out folder of at least one run.")
    folders = find_runs(folders)
    rows = read_records(folders)
    infos = [read_run(folder) for folder in folders]
    tables.check_settings(rows)
    for info, folder in zip(infos, folders, strict=True):
        for key in MUST_AGREE:
            if info[key] != infos[0][key]:
                raise UserError(f"{folders[0]} and {folder} differ in their {key}; report them apart.")
    classes = _agreed("classes", infos, folders)
    _agreed("templates", infos, folders)
    tasks = [task for info in infos for task in info["tasks"]]
    methods = {name: declared for info in infos for name, declared in info["methods"].items()}
    return Runs(
        tables.in_order(rows, tasks, list(methods)),
        _merge_cost([info["cost"] for info in infos]),
        {key: infos[0][key] for key in MUST_AGREE},
        methods,
        classes,
        {task: source for info in infos for task, source in info["sources"].items()},
        {task: found for info in infos for task, found in info.get("images", {}).items()},
        {method: limit for info in infos for method, limit in info.get("first_only", {}).items()},
        str(infos[0].get("dtype", "float32")),
        sorted(set(rows["versions"])),
        _unfinished(rows, infos),
        list(dict.fromkeys(note for info in infos for notes in info.get("notes", {}).values() for note in notes)),
    )


def _agreed(what: str, infos: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> dict[str, list[str]]:
    """Task -> what all runs of the task have in common.

    Raises:
        UserError: two runs differ.
    """
    known: dict[str, list[str]] = {}
    for info, folder in zip(infos, folders, strict=True):
        for task, found in info[what].items():
            if known.setdefault(task, found) != found:
                raise UserError(f"{folder} and a run before it have other {what} for {task}; report them apart.")
    return known


def _unfinished(rows: pd.DataFrame, infos: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each task where no method of the runs has a row for every image; shards are counted together."""
    seen = rows.groupby(["seed", "task", "method"])["image_id"].nunique().groupby(["seed", "task"]).max()
    wanted = {
        (info["seed"], task): count
        for info in infos
        if len(info.get("first_only", {})) < len(info["methods"])
        for task, count in info["tasks"].items()
    }
    return [
        f"{task}: only {seen.get((seed, task), 0)} of {count} images were seen under seed {seed}; "
        "run the same command again, it resumes."
        for (seed, task), count in wanted.items()
        if seen.get((seed, task), 0) < count
    ]


def _merge_cost(costs: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    frame = pd.DataFrame(
        [{"method": method, **entry} for cost in costs for method, entry in cost.items()],
        columns=["method", "ms", "peak_memory_mb"],
    )
    merged = frame.groupby("method", sort=False).agg({"ms": "mean", "peak_memory_mb": "max"})
    return {str(method): {"ms": row["ms"], "peak_memory_mb": row["peak_memory_mb"]} for method, row in merged.iterrows()}


def write_report(
    runs: Sequence[Path],
    out: Path,
    *,
    reference: str = "",
    photos_root: Path | None = None,
    images: bool = True,
    console: Console,
) -> Path:
    """Writes `summary.json`, the tables and `report.html` into `out`, and prints the compact table; a sweep has its own page.

    Args:
        reference: the method that the others are compared with; by default `grpo-tta`, or where that was not run the first
            one but zero-shot.
        photos_root: folder that holds the photographs of the photos suite, to show them in the gallery.
        images: the page shows images, those of the user among them.

    Returns:
        The page.

    Raises:
        UserError: as `read_runs`, or the reference was not run.
    """
    if any(map(is_sweep, runs)):
        return write_sweep_report(runs, out, console=console)
    found = read_runs(runs)
    rows = found.rows
    names = list(rows["method"].unique())
    reference = reference or next((name for name in ("grpo-tta", *names) if name in names and name != "zero-shot"), names[0])
    if reference not in names:
        raise UserError(f"The runs hold no rows of {reference!r}; choose the reference from {', '.join(names)}.")
    summary = summarize(rows, found.cost)
    teachers = {name: declared.get("teacher") for name, declared in found.methods.items()}
    results = tables.results(rows, summary, found.cost, teachers)
    frames = {
        "comparisons": tables.comparisons(rows, reference),
        "losses": tables.losses(rows, reference),
        "calibration": tables.calibration(rows),
        "flips": tables.flips(rows),
        "collapse": tables.collapse(rows, found.classes),
        "errors": tables.errors(rows),
        "classes": tables.per_class(rows, found.classes, reference),
    }
    ece = tables.over_shifted(frames["calibration"], {"ece_before": "mean", "ece": "mean"})
    grids = {"compact": compact_grid(results, dict(ece["ece"])), "accuracy": accuracy_grid(results)}
    if results.tasks("stream"):
        grids["stream"] = stream_grid(results, dict(frames["collapse"].set_index(["method", "task"])["entropy"]))
    shown = [grids[name] for name in ("accuracy", "stream") if name in grids]

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "summary.json", summary)
    _write_csv(out / "table.csv", tables.flat(results))
    for name, frame in frames.items():
        _write_csv(out / f"{name}.csv", frame)
    (out / "table.md").write_text("\n".join(map(markdown, shown)), encoding="utf-8")
    (out / "table.tex").write_text("\n".join(map(latex, shown)), encoding="utf-8")
    material = Material(found.about["views"], found.classes, found.sources, found.images, photos_root, images)
    page = out / "report.html"
    page.write_text(_page(found, reference, summary, results, frames, grids, material), encoding="utf-8")

    grid_table(grids["compact"]).print(console)
    if "stream" in grids:
        grid_table(grids["stream"]).print(console)
    print_comparisons(frames["comparisons"], console, words_for(results.kinds.values()).mean)
    for sentence in found.unfinished:
        console.print(sentence, style="yellow", markup=False)
    for sentence in found.notes:
        console.print(sentence, style="dim", markup=False)
    print_errors(int(frames["errors"]["rows"].sum()), str(out / "errors.csv"), console)
    console.print(f"Page: {page}", markup=False)
    return page


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    frame.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")


def _page(
    runs: Runs,
    reference: str,
    summary: Mapping[str, Any],
    results: tables.Results,
    frames: Mapping[str, pd.DataFrame],
    grids: Mapping[str, Any],
    material: Material,
) -> str:
    """The whole of `report.html`."""
    differences = dict(frames["comparisons"].set_index("other")["difference"])
    baseline = results.best_baseline(reference, differences)
    rows = runs.rows
    seeds = sorted(int(seed) for seed in rows["seed"].unique())
    figures = _figures(rows, reference, baseline, summary, results)
    teachers = {name: m.teacher_name for name, m in results.methods.items()}
    commands = Commands(runs.about["model"], runs.sources, teachers, runs.limits, runs.dtype)
    return (
        environment("grpo_tta.report", {"number": number, "p_value": p_value})
        .get_template("report.html")
        .render(
            reference=reference,
            baseline=baseline,
            about=runs.about,
            versions=runs.versions,
            seeds=seeds,
            words=words_for(results.kinds.values()),
            data=_data(runs.sources),
            outcomes=OUTCOMES,
            task_grids=task_grids(results) if len(results.tasks("source", *SHIFTED_MEAN)) > MOST_TASKS else [],
            classes=_classes(frames["classes"]),
            commands=_commands(rows, commands),
            tasks=len(results.kinds),
            images=len(rows.drop_duplicates(["task", "image_id"])),
            row_count=len(rows),
            mine=results.methods[reference],
            rank=results.rank(reference, differences),
            comparable=len(results.comparable(reference)),
            scored_by={name: m.scored_by for name, m in results.methods.items()},
            grids=grids,
            marks=[mark for mark in "†‡" if mark in markdown(grids["compact"])],
            comparisons=frames["comparisons"].to_dict("records"),
            losses=frames["losses"].to_dict("records"),
            controls=[control for control in tables.CONTROLS if control in results.methods and control != reference],
            errors=frames["errors"].to_dict("records"),
            unfinished=runs.unfinished,
            notes=runs.notes,
            diagnostics=_diagnostics(rows, frames).to_dict("records"),
            figures={name: data_uri("image/svg+xml", svg.encode()) for name, svg in figures.items()},
            gallery=make_gallery(
                rows, reference, material, lambda task, method, seed: commands.lines([task], [method], [seed])
            ),
            settings={
                str(method): (str(digest), json.dumps(runs.methods.get(str(method), {}).get("settings"), indent=1))
                for method, digest in rows.groupby("method", sort=False)["settings_hash"].first().items()
            },
        )
    )


def _commands(rows: pd.DataFrame, commands: Commands) -> dict[str, str]:
    """Method -> what makes its rows again."""
    out = {}
    for method, some in rows.groupby("method", sort=False):
        tasks, seeds = [str(task) for task in some["task"].unique()], sorted(int(seed) for seed in some["seed"].unique())
        out[str(method)] = commands.lines(tasks, [str(method)], seeds)
    return out


def _data(sources: Mapping[str, Mapping[str, Any]]) -> str:
    """Where the images come from, in words for the head of the page; empty where the runs do not say."""
    named = []
    for source in sources.values():
        if "data" in source:
            named.append(f"your own images in {source['data']}")
        elif "dataset" in source:
            named.append(str(source["dataset"]))
        elif "suite" in source:
            named.append(f"the {source['suite']} suite")
    return ", ".join(dict.fromkeys(named))


def _classes(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The per-class table by task. Of many classes those that lose most and those that gain most are shown."""
    out = []
    for task, some in frame.groupby("task", sort=False):
        cut = len(some) > 2 * CLASSES_SHOWN
        if cut:
            order = some.sort_values("difference", kind="stable")
            some = pd.concat([order.head(CLASSES_SHOWN), order.tail(CLASSES_SHOWN)])
        out.append({"task": task, "rows": some.to_dict("records"), "cut": cut})
    return out


def _diagnostics(rows: pd.DataFrame, frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per method: calibration, flips and collapse over the shifted tasks, and the share of episodes with an update."""
    with_group = rows[rows["kind"].isin(SHIFTED_MEAN) & (rows["group"].str.len() > 0)]
    return (
        tables.over_shifted(frames["calibration"], {"ece_before": "mean", "ece": "mean"})
        .join(tables.over_shifted(frames["flips"], {"wrong_to_right": "sum", "right_to_wrong": "sum", "rows": "sum"}))
        .join(tables.over_shifted(frames["collapse"], {"labels": "mean", "entropy_before": "mean", "entropy": "mean"}))
        .join(with_group.groupby("method", sort=False)["updated"].mean().mul(100))
        .reset_index()
    )


def _figures(
    rows: pd.DataFrame, reference: str, baseline: str | None, summary: Mapping[str, Any], results: tables.Results
) -> dict[str, str]:
    """Name -> SVG; plots of the shifted mean only where there is one."""
    figures = {"shifts": shift_figure(summary, bar_colours(reference, baseline, list(results.methods)))}
    if not results.is_complete(reference):
        return figures
    figures["cost"] = cost_figure(results, reference)
    mine = rows[(rows["method"] == reference) & rows["kind"].isin(SHIFTED_MEAN) & rows["error"].isna()]
    if len(mine):
        before = mine["confidence_before"].to_numpy(), (mine["prediction_before"] == mine["label"]).to_numpy()
        after = mine["confidence"].to_numpy(), is_correct(mine)
        figures["reliability"] = reliability_figure(
            {
                title: (reliability(*pair), 100 * calibration_error(*pair))
                for title, pair in (("before (frozen model)", before), (f"after ({reference})", after))
            }
        )
    return figures
