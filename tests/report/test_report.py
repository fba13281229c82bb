"""The report of two small runs whose numbers can be checked by hand."""

from __future__ import annotations

import base64
import json
import re
import shutil
import webbrowser
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from grpo_tta.bench.records import FORMAT, Record, part_path, write_json, write_part
from grpo_tta.bench.runs import images_hash
from grpo_tta.cli.main import app
from grpo_tta.config.serialise import to_plain
from grpo_tta.data.custom import custom_task
from grpo_tta.data.tasks import nano_tasks
from grpo_tta.errors import UserError
from grpo_tta.images.views import ViewSettings
from grpo_tta.report.figures import pareto
from grpo_tta.report.grids import number, task_grids
from grpo_tta.report.html import write_report
from grpo_tta.report.tables import MethodResult, Results

METHODS = {"zero-shot": ("none", 1.0), "zero": ("none", 64.0), "grpo-tta": ("own", 128.0)}
KINDS = {"stream-zipf": "stream", "photos": "real", "sketch": "shifted", "source": "source"}

# task -> method -> a digit an image, and where the two seeds differ one word a seed: 1 right, 0 wrong, E an error
RIGHT = {
    "source": {"zero-shot": "11", "zero": "11", "grpo-tta": "11"},
    "sketch": {"zero-shot": "1000", "zero": "1100", "grpo-tta": "1110 E110"},
    "photos": {"zero-shot": "1110", "zero": "1100", "grpo-tta": "1100"},
    "stream-zipf": {"zero-shot": "1100", "zero": "0000", "grpo-tta": "1000"},
}


def record(task: str, method: str, seed: int, number: int, outcome: str, hashed: str = "aaa") -> Record:
    reward, forwards = METHODS[method]
    place = f"photos/{number}.jpg" if task == "photos" else f"nano/{task}/reporting/{number:04d}"
    wrong = (number + 1) % 4
    common = {
        "task": task,
        "kind": KINDS[task],
        "image_id": place,
        "order": number,
        "label": number,
        "method": method,
        "protocol": "episodic",
        "reward": reward,
        "seed": seed,
        "settings_hash": hashed,
        "versions": "grpo-tta=0.1.0",
    }
    if outcome == "E":
        return Record(**common, error="UserError: <the image> cannot be read")
    before = number if RIGHT[task]["zero-shot"][number] == "1" else wrong
    group = {"group": [0, 1, 2], "rewards": [-1.0, -2.0, -3.0], "advantages": [0.5, -0.2, -0.3], "updated": True}
    return Record(
        **common,
        prediction_before=before,
        prediction=number if outcome == "1" else wrong,
        confidence_before=0.5,
        confidence=0.75,
        top5=[0, 1, 2, 3],
        forwards=forwards,
        backwards=0.0,
        **(group if method == "grpo-tta" else {}),
    )


def rows_of(task: str) -> list[Record]:
    """As under seed 0."""
    return [record(task, method, 0, i, o) for method in METHODS for i, o in enumerate(RIGHT[task][method].split()[0])]


def write_run(folder: Path, seed: int, *, methods: tuple[str, ...] = tuple(METHODS), **change: object) -> Path:
    """One run as the runner leaves it, but with the streams and the shifted tasks before the source."""
    for task in KINDS:
        rows = []
        for method in methods:
            words = RIGHT[task][method].split()
            outcomes = words[min(seed, len(words) - 1)]
            rows += [record(task, method, seed, i, o, str(change.get("hashed", "aaa"))) for i, o in enumerate(outcomes)]
        write_part(part_path(folder, task, 0), rows)
    suite = nano_tasks([task for task in KINDS if task != "photos"], "reporting", 4)
    info = {
        "format": FORMAT,
        "model": change.get("model", "nano-clip"),
        "fingerprint": "f00d",
        "seed": seed,
        "views": to_plain(ViewSettings()),
        "tasks": dict.fromkeys(KINDS, 4),
        "sources": {task.name: dict(task.source) for task in suite} | {"photos": {}},
        "classes": {task.name: list(task.classes) for task in suite}
        | {"photos": change.get("classes", ["duck", "swan", "goose", "hen"])},
        "templates": {task.name: list(task.templates) for task in suite}
        | {"photos": [change.get("template", "a photo of a {}.")]},
        "methods": {m: {"protocol": "episodic", "reward": METHODS[m][0], "settings": None} for m in methods},
        "cost": {m: {"ms": 2.0 + seed, "peak_memory_mb": 100.0 + seed} for m in methods},
    }
    write_json(folder / "run.json", info)
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    runs = [write_run(folder / f"run{seed}", seed) for seed in (0, 1)]
    with (folder / "terminal.txt").open("w") as terminal:
        write_report(runs, folder / "out", console=Console(file=terminal, width=160))
    return folder / "out"


def table(report: Path, name: str, *index: str) -> pd.DataFrame:
    return pd.read_csv(report / f"{name}.csv").set_index(list(index))


def test_the_table_has_a_row_a_method_and_a_column_a_task(report: Path) -> None:
    found = table(report, "table", "method")
    assert list(found.columns[:6]) == ["protocol", "reward", "source", "sketch", "photos", "stream-zipf"]
    assert found.loc["grpo-tta", ["source", "sketch", "photos", "stream-zipf"]].tolist() == [100, 62.5, 50, 25]
    assert found["shifted_mean"].to_dict() == {"zero-shot": 50, "zero": 50, "grpo-tta": 56.25}  # without the stream
    assert found.loc["grpo-tta", ["shifted_tasks", "images", "errors", "forwards"]].tolist() == [2, 10, 1, 128]
    assert found.loc["zero", ["ms", "peak_memory_mb"]].tolist() == [2.5, 101]  # mean and maximum over the runs


def test_the_summary_keeps_its_shape(report: Path) -> None:
    found = json.loads((report / "summary.json").read_text())
    assert set(found) == {"tasks", "methods", "shifted_mean"}
    assert [task["name"] for task in found["tasks"]] == ["source", "sketch", "photos", "stream-zipf"]
    sketch = found["tasks"][1]["methods"]["grpo-tta"]
    assert set(sketch) == {"accuracy", "ci95", "forwards", "ms", "errors"}
    assert (sketch["accuracy"], sketch["errors"]) == (0.625, 1)


def test_paired_comparisons_by_hand(report: Path) -> None:
    found = table(report, "comparisons", "other")
    assert list(found.index) == ["zero-shot", "zero"]
    # sketch: 0 lost (the error under one seed), 1 and 2 won; photos: 2 lost
    zero_shot = found.loc["zero-shot", ["wins", "losses", "p_value", "difference", "images", "tasks"]]
    assert zero_shot.tolist() == [2, 2, 1, 6.25, 8, 2]
    assert found.loc["zero", ["wins", "losses", "difference"]].tolist() == [1, 1, 6.25]
    assert (found["low"] <= found["difference"]).all()
    assert (found["difference"] <= found["high"]).all()


def test_where_it_loses(report: Path) -> None:
    found = pd.read_csv(report / "losses.csv")
    assert found[["task", "control", "difference"]].to_numpy().tolist() == [
        ["photos", "zero-shot", -25],
        ["stream-zipf", "zero-shot", -25],
        ["source", "zero-shot", 0],
    ]


def test_flips_count_an_error_against_the_frozen_model(report: Path) -> None:
    found = table(report, "flips", "method", "task")
    assert found.loc[("grpo-tta", "sketch"), ["wrong_to_right", "right_to_wrong", "rows"]].tolist() == [4, 1, 8]
    assert found.loc[("zero", "photos"), ["wrong_to_right", "right_to_wrong"]].tolist() == [0, 2]
    assert found.loc["zero-shot", ["wrong_to_right", "right_to_wrong"]].to_numpy().sum() == 0


def test_calibration_and_collapse_by_hand(report: Path) -> None:
    ece = table(report, "calibration", "method", "task").loc[("grpo-tta", "sketch")]
    assert ece["rows"] == 7  # the row with an error has no confidence
    assert ece["ece"] == pytest.approx(100 * (0.75 - 5 / 7), abs=1e-3)
    assert ece["ece_before"] == pytest.approx(100 * (0.5 - 1 / 7), abs=1e-3)
    found = table(report, "collapse", "method", "task")
    photos = found.loc[("grpo-tta", "photos")]  # answers 0, 1, 3, 0 of four classes
    assert (photos["classes"], photos["labels"], photos["entropy"]) == pytest.approx((4, 1, 0.75))
    assert found.loc[("grpo-tta", "sketch"), "classes"] == 24  # as run.json names the classes, not as seen


def test_errors_are_counted_in_the_open(report: Path) -> None:
    assert pd.read_csv(report / "errors.csv")[["method", "task", "rows"]].to_numpy().tolist() == [["grpo-tta", "sketch", 1]]
    assert "&lt;the image&gt; cannot be read" in (report / "report.html").read_text()
    assert "1 row holds an error" in (report.parent / "terminal.txt").read_text()


def test_markdown_and_latex(report: Path) -> None:
    lines = (report / "table.md").read_text().splitlines()
    header = next(line for line in lines if line.startswith("| method"))
    assert "| source | sketch | photos | shifted |" in header
    assert "stream" not in header
    ours = next(line for line in lines if line.startswith("| grpo-tta"))
    assert "| 100.0 | **62.5** | 50.0 | **56.2** |" in ours.replace("**100.0**", "100.0")
    assert len({line.count("|") for line in lines[2:7]}) == 1
    tex = (report / "table.tex").read_text()
    assert tex.count("\\begin{tabular}") == tex.count("\\end{tabular}") == 2  # the streams have their own
    body = [line for line in tex.split("\\end{table}")[0].splitlines() if line.startswith(("zero", "grpo"))]
    columns = re.search(r"\\begin\{tabular\}\{l(r+)\}", tex)
    assert columns is not None
    assert {line.count("&") for line in body} == {len(columns[1])}


def test_the_page_needs_no_other_host(report: Path) -> None:
    page = (report / "report.html").read_text()
    assert len(page) < 3_000_000
    embedded = [base64.b64decode(data).decode() for data in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)]
    assert len(embedded) == 3
    for text in (page, *embedded):
        assert not re.search(r"https?://", re.sub(r'xmlns(:\w+)?="[^"]*"', "", text))
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert all(re.search(r'alt="[^"]+"', tag) for tag in re.findall(r"<img[^>]*>", page))
    ids = set(re.findall(r'id="([^"]+)"', page))
    assert {source[1:] for source in sources if source.startswith("#")} <= ids


def test_the_page_shows_repaired_broken_and_wrong_episodes(report: Path) -> None:
    page = (report / "report.html").read_text()
    assert (
        page.count('<article class="episode repaired" data-method="grpo-tta"') == 2
    )  # an image once, however many seeds saw it
    assert page.count('<article class="episode broken" data-method="grpo-tta"') == 2
    assert page.count('<article class="episode wrong" data-method="grpo-tta"') == 4
    others = re.findall(r'<article class="episode \w+" data-method="zero[^>]*>', page)
    assert others
    assert all(tag.endswith(" hidden>") for tag in others)  # shown by the filter alone
    assert "repaired 4 and broke 4 of its rows, and left 8 wrong" in page
    assert "nano/sketch/reporting/0001, seed 0" in page


def test_labels_have_names_and_images_that_cannot_be_drawn_are_left_out(report: Path) -> None:
    page = (report / "report.html").read_text()
    broken = next(e for e in page.split("<article")[1:] if "photos/2.jpg" in e)
    assert "truth: <b>goose</b>" in broken  # as run.json names the classes
    assert "<img" not in broken
    drawn = next(e for e in page.split("<article")[1:] if "nano/sketch/reporting/0001" in e)
    assert drawn.count("<img") == 4


def test_the_same_records_give_the_same_page(report: Path, tmp_path: Path) -> None:
    runs = [report.parent / f"run{seed}" for seed in (0, 1)]
    write_report(runs, tmp_path, console=Console(quiet=True))
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in report.iterdir()}
    assert all((tmp_path / p.name).read_bytes() == p.read_bytes() for p in report.iterdir())


def test_runs_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    quiet = Console(quiet=True)
    first = write_run(tmp_path / "a", 0)
    other_settings = write_run(tmp_path / "b", 1, hashed="bbb")
    with pytest.raises(UserError, match=r"different settings .*aaa and bbb"):
        write_report([first, other_settings], tmp_path / "out", console=quiet)
    with pytest.raises(UserError, match="differ in their model"):
        write_report([first, write_run(tmp_path / "c", 1, model="other")], tmp_path / "out", console=quiet)
    with pytest.raises(UserError, match="other classes for photos"):
        write_report([first, write_run(tmp_path / "d", 1, classes=["a", "b", "c", "d"])], tmp_path / "out", console=quiet)
    with pytest.raises(UserError, match="other templates for photos"):
        write_report([first, write_run(tmp_path / "e", 1, template="a {}.")], tmp_path / "out", console=quiet)
    with pytest.raises(UserError, match=r"no rows of 'tent'; choose the reference from zero-shot, zero, grpo-tta"):
        write_report([first], tmp_path / "out", reference="tent", console=quiet)
    with pytest.raises(UserError, match="No run was named"):
        write_report([], tmp_path / "out", console=quiet)
    assert not (tmp_path / "out").exists()


def test_without_the_default_the_first_method_is_the_reference(tmp_path: Path) -> None:
    for methods, reference in ((("zero-shot", "zero"), "zero"), (("zero-shot",), "zero-shot")):
        run = write_run(tmp_path / reference, 0, methods=methods)
        write_report([run], tmp_path / reference / "out", console=Console(quiet=True))
        compared = pd.read_csv(tmp_path / reference / "out" / "comparisons.csv")
        assert set(compared["method"]) <= {reference}
        assert list(compared["other"]) == [m for m in methods if m != reference]


def test_an_unfinished_task_is_reported(report: Path) -> None:
    """Four images were to be seen of every task, of the source only two were."""
    output = (report.parent / "terminal.txt").read_text()
    for seed in (0, 1):
        assert f"source: only 2 of 4 images were seen under seed {seed}" in output
    assert "sketch: only" not in output
    assert "source: only 2 of 4" in (report / "report.html").read_text()


def test_a_method_with_fewer_tasks_is_marked_and_not_ranked(tmp_path: Path) -> None:
    """The expensive method saw the sketches alone, where it looks better than it is."""
    whole = write_run(tmp_path / "whole", 0, methods=("zero-shot", "grpo-tta"))
    part = write_run(tmp_path / "part", 0, methods=("zero",))
    for task in ("photos", "stream-zipf", "source"):
        part_path(part, task, 0).unlink()
    write_report([whole, part], tmp_path / "out", console=Console(quiet=True))
    assert "50.0†" in (tmp_path / "out" / "table.md").read_text()
    assert "number 1 of 2 episodic methods" in (tmp_path / "out" / "report.html").read_text()
    assert table(tmp_path / "out", "comparisons", "other").loc["zero", ["tasks", "images"]].tolist() == [1, 4]


def test_a_method_with_fewer_images_is_marked_and_compared_on_those_it_shares(tmp_path: Path) -> None:
    """The expensive method saw the first two images of each task, where it is right more often than on all four."""
    run = write_run(tmp_path / "run", 0)
    for task in KINDS:
        write_part(part_path(run, task, 0), [r for r in rows_of(task) if r.method != "zero" or r.order < 2])
    write_report([run], tmp_path / "out", console=Console(quiet=True))
    found = table(tmp_path / "out", "comparisons", "other")
    # of the first two: sketch 2 against 2 right, photos 2 against 2
    assert found.loc["zero", ["images", "wins", "losses", "difference"]].tolist() == [4, 0, 0, 0]
    line = next(x for x in (tmp_path / "out" / "table.md").read_text().splitlines() if x.startswith("| zero |"))
    assert "100.0‡" in line
    assert "**" not in line
    page = (tmp_path / "out" / "report.html").read_text()
    assert "shares place 1 of 3 episodic methods" in page  # level on what both saw, although the other's own mean is the higher
    assert "‡ fewer images" in page


def test_a_teacher_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 0)
    info = json.loads((run / "run.json").read_text())
    info["methods"]["zero"] |= {"reward": "teacher", "teacher": "ViT-L-14/openai"}
    write_json(run / "run.json", info)
    for task in KINDS:
        rows = [replace(r, reward="teacher") if r.method == "zero" else r for r in rows_of(task)]
        write_part(part_path(run, task, 0), rows)
    write_report([run], tmp_path / "out", console=Console(quiet=True))
    assert "teacher ViT-L-14/openai" in (tmp_path / "out" / "report.html").read_text()
    assert "teacher ViT-L-14/openai" in (tmp_path / "out" / "table.md").read_text()


def test_a_folder_of_runs_stands_for_its_runs(tmp_path: Path, report: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / "all" / f"seed-{seed}", seed)
    write_report([tmp_path / "all"], tmp_path / "out", console=Console(quiet=True))
    assert (tmp_path / "out" / "table.csv").read_text() == (report / "table.csv").read_text()


def test_a_run_without_shifted_tasks_has_a_report_too(tmp_path: Path) -> None:
    """One method alone, never timed."""
    run = write_run(tmp_path / "run", 0, methods=("grpo-tta",))
    write_json(run / "run.json", {**json.loads((run / "run.json").read_text()), "cost": {}})
    for task in ("photos", "sketch", "stream-zipf"):
        part_path(run, task, 0).unlink()
    write_report([run], tmp_path / "out", console=Console(quiet=True))
    assert "nothing can be said" in (tmp_path / "out" / "report.html").read_text()


def own_run(folder: Path, photo_size: tuple[int, int] = (640, 480)) -> Path:
    """A run on two images of one's own, one right and one wrong, as the runner records it."""
    data = folder / "photos"
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    for name in ("cat", "dog"):
        (data / name).mkdir(parents=True)
        Image.fromarray(pixels).resize(photo_size, Image.Resampling.BICUBIC).save(data / name / "1.jpg")
    task = custom_task(data, template="a photo of a {}.")
    rows = []
    for method, answers in {"zero-shot": (0, 0), "grpo-tta": (1, 0)}.items():
        for place, answer in enumerate(answers):
            given = record("source", method, 0, place, "1")
            about = {"task": task.name, "kind": "real", "image_id": task.image_ids[place], "label": place}
            rows.append(replace(given, **about, prediction=answer, prediction_before=0, group=[0, 1], rewards=[1.0, 0.0],
                                advantages=[0.004, -0.004]))  # fmt: skip
    run = folder / "run"
    write_part(part_path(run, task.name, 0), rows)
    info = {
        "format": FORMAT,
        "model": "photo-clip",
        "fingerprint": "f00d",
        "seed": 0,
        "views": to_plain(ViewSettings()),
        "tasks": {task.name: 2},
        "sources": {task.name: dict(task.source)},
        "images": {task.name: images_hash(task)},
        "classes": {task.name: list(task.classes)},
        "templates": {task.name: list(task.templates)},
        "methods": {m: {"protocol": "episodic", "reward": METHODS[m][0], "settings": None} for m in ("zero-shot", "grpo-tta")},
        "cost": {},
    }
    write_json(run / "run.json", info)
    return run


def page_of(run: Path, out: Path, **options: bool) -> str:
    return write_report([run], out, console=Console(quiet=True), **options).read_text()


def test_images_of_ones_own_are_shown_and_nothing_is_called_shifted(tmp_path: Path) -> None:
    run = own_run(tmp_path)
    page = page_of(run, tmp_path / "out")
    assert page.count("data:image/jpeg") == 2 * 4 + 1  # two of grpo-tta with three crops each, and zero-shot's wrong one
    assert len(page) < 400_000  # photographs are made smaller
    text = re.sub(r"<[^>]*>", "", page.split("</style>")[1].split("<script>")[0])
    assert "shifted" not in text.replace("--", "")
    assert "−0.00" not in text
    assert f"your own images in {tmp_path / 'photos'}" in text
    assert "top-1 accuracy" in text
    assert "image of dog" in page
    assert f"grpo-tta bench --data {tmp_path / 'photos'} --model photo-clip --methods grpo-tta --out runs/again" in text


def test_images_are_left_out_on_request_and_where_others_lie_there_now(tmp_path: Path) -> None:
    run = own_run(tmp_path)
    assert "data:image/jpeg" not in page_of(run, tmp_path / "a", images=False)
    Image.new("RGB", (9, 9)).save(tmp_path / "photos" / "cat" / "1.jpg")
    assert "data:image/jpeg" not in page_of(run, tmp_path / "b")
    shutil.rmtree(tmp_path / "photos")
    page = page_of(run, tmp_path / "c")
    assert "data:image/jpeg" not in page
    assert "no longer lies where it was read" in page


def test_classes_by_hand(report: Path) -> None:
    found = table(report, "classes", "task", "class")
    goose = found.loc[("photos", "goose")]  # right before, wrong after, under both seeds
    assert goose[["rows", "accuracy_before", "accuracy", "difference", "times"]].tolist() == [2, 100, 0, -100, 2]
    assert goose["taken_for"] == "hen"
    assert pd.isna(found.loc[("photos", "duck"), "taken_for"])
    assert "Class by class" in (report / "report.html").read_text()


def test_many_tasks_stand_as_rows() -> None:
    figures = (50.0, 40.0, 60.0, 9, 100, 64.0, 1.0, 2.0, 3.0, 0)
    kinds = {f"task-{i}": "shifted" for i in range(9)}
    methods = {f"m{i}": MethodResult(f"m{i}", "episodic", "own", dict.fromkeys(kinds, 50.0 + i), *figures) for i in range(16)}
    first, second = task_grids(Results(methods, kinds))
    assert (first.corner, len(first.columns), len(second.columns)) == ("task", 14, 2)
    (tasks, mean) = first.blocks
    assert [name for name, _ in tasks.rows] == list(kinds)
    assert [name for name, _ in mean.rows] == ["shifted mean", "fwd", "bwd", "ms", "MB", "errors"]
    assert [cell.text for cell in tasks.rows[0][1][:2]] == ["50.0", "51.0"]
    assert not any(cell.best for _, cells in tasks.rows for cell in cells)  # the best is in the other part
    assert second.blocks[0].rows[0][1][1].best


def test_a_tie_shares_its_place() -> None:
    figures = (50.0, 40.0, 60.0, 1, 100, 64.0, 1.0, 2.0, 3.0, 0)
    methods = {name: MethodResult(name, "episodic", "own", {"x": 50.0}, *figures) for name in "abcd"}
    found = Results(methods, {"x": "real"})
    assert found.rank("a", {"b": 0.01, "c": -2.0, "d": 3.0}) == (2, 1)
    assert found.rank("a", {"b": 1.0, "c": 2.0, "d": 3.0}) == (1, 0)


def test_a_zero_has_no_sign() -> None:
    assert [number(x, 2, True) for x in (-0.001, 0.001, -0.01, 0.01)] == ["0.00", "0.00", "−0.01", "+0.01"]


def test_pareto_by_hand() -> None:
    assert pareto([1, 1, 4, 8, 2], [50, 51, 60, 59, 51]) == [1, 2]


def test_a_run_of_another_version_is_refused(tmp_path: Path) -> None:
    """Before columns and settings were renamed, `run.json` had no format."""
    run = write_run(tmp_path / "run", 0)
    info = json.loads((run / "run.json").read_text())
    del info["format"]
    write_json(run / "run.json", info)
    with pytest.raises(UserError, match=r"written by another version, where settings and columns have other names; run again"):
        write_report([run], tmp_path / "out", console=Console(quiet=True))
    assert not (tmp_path / "out").exists()


def test_a_task_that_was_changed_after_it_was_read_shows_no_image(tmp_path: Path) -> None:
    """A corruption on top of a task of the suite: the images of the suite are not those that the run saw."""
    for change in ({"corruption": "fog"}, {"task": "rendition"}):
        run = write_run(tmp_path / "run", 0)
        info = json.loads((run / "run.json").read_text())
        info["sources"]["sketch"] |= change
        write_json(run / "run.json", info)
        write_report([run], tmp_path / "out", console=Console(quiet=True))
        episodes = (tmp_path / "out" / "report.html").read_text().split("<article")[1:]
        assert not any("data:image/png" in episode for episode in episodes if "nano/sketch" in episode)
        assert any("data:image/png" in episode for episode in episodes if "nano/stream" in episode)


def test_names_are_no_markup_on_the_terminal(tmp_path: Path) -> None:
    run = write_run(tmp_path / "[red]", 0)
    for task in KINDS:
        rows = [replace(r, method="zero[bold]") if r.method == "zero" else r for r in rows_of(task)]
        write_part(part_path(run, task, 0), rows)
    with (tmp_path / "terminal.txt").open("w") as terminal:
        write_report([run], tmp_path / "[red]" / "out", console=Console(file=terminal, width=300))
    output = (tmp_path / "terminal.txt").read_text()
    assert "grpo-tta − zero[bold]: +" in output
    assert "[red]/out/report.html" in output


def test_the_command_has_a_folder_of_its_own_and_opens_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "a run", 0)
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    done = CliRunner().invoke(app, ["report", str(run)])
    assert done.exit_code == 0, done.output
    assert (run / "report" / "report.html").is_file()
    assert opened == []
    done = CliRunner().invoke(app, ["report", str(run), "--out", str(tmp_path / "b"), "--open", "--no-images"])
    assert done.exit_code == 0, done.output
    assert opened == [(tmp_path / "b" / "report.html").as_uri()]
    assert 'src="data:image/png' not in (tmp_path / "b" / "report.html").read_text()
