"""The command line as a user meets it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from grpo_tta.classifier import GRPOTTA
from grpo_tta.cli.main import app
from grpo_tta.cli.main import main as cli


def grpo_tta(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "grpo_tta", *arguments], capture_output=True, text=True, cwd=cwd)


HEAVY = {"torch", "pandas", "transformers", "open_clip", "numpy", "pyarrow", "ray", "matplotlib", "gradio", "fastapi"}


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["bench", "-h"], ["datasets", "check", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = f"""
import sys
from grpo_tta.cli.main import main
sys.argv = ["grpo-tta", *{words!r}]
try:
    main()
except SystemExit as stop:
    assert not stop.code
print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert ("grpo-tta 0" if words == ["--version"] else "Usage: grpo-tta") in done.stdout


def test_every_command_has_help_by_its_short_name() -> None:
    def leaves(command: click.Command, words: list[str]) -> Iterator[list[str]]:
        yield words
        for name, below in getattr(command, "commands", {}).items():
            yield from leaves(below, [*words, name])

    every = list(leaves(typer.main.get_command(app), []))
    assert {words[0] for words in every if words} == {
        "demo", "predict", "bench", "sweep", "report", "serve", "app", "models", "datasets"
    }  # fmt: skip
    for words in every:
        done = CliRunner().invoke(app, [*words, "-h"])
        assert done.exit_code == 0, words
        assert "--help" in done.stdout
        assert "-h" in done.stdout


def test_the_shell_completes_commands() -> None:
    environment = os.environ | {
        "_GRPO_TTA_COMPLETE": "complete_bash", "COMP_WORDS": "grpo-tta be", "COMP_CWORD": "1"
    }  # fmt: skip
    code = "import sys; sys.argv = ['grpo-tta']; from grpo_tta.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["bench"]


def test_predict_answers_the_good_and_names_the_bad(awkward_folder: Path) -> None:
    done = grpo_tta("predict", str(awkward_folder), "--labels", "star, heart,red circle", "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert [Path(p["path"]).name for p in document["predictions"]] == ["a.jpg", "b.png", "c.png", "d.jpg"]
    assert document["labels"] == ["star", "heart", "red circle"]
    assert sum(document["predictions"][0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 3
    assert "e.jpg: truncated or damaged" in lines[0]
    assert "f.jpg: not an image" in lines[1]
    assert lines[2].startswith("4 answered, 2 unreadable, ")


def test_predict_prints_a_table_and_succeeds(awkward_folder: Path) -> None:
    path = awkward_folder / "a.jpg"
    words = ("a.jpg", "--labels", "star,heart", "--template", "a drawing of a {}.")
    done = grpo_tta("predict", *words, cwd=awkward_folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("1 answered, 0 unreadable, ")
    lines = done.stdout.splitlines()
    header = next(line for line in lines if "zero-shot label" in line)
    headings = [heading.strip() for heading in header.strip("┃").split("┃")]
    assert headings == ["image", "label", "probability", "zero-shot label", "zero-shot probability"]
    answer = GRPOTTA("nano-clip", ["star", "heart"], templates="a drawing of a {}.").predict(path)
    body = "".join(line for line in lines if "│" in line)  # a long path is folded over several lines
    cells = [cell.strip() for cell in next(line for line in lines if "│" in line).split("│")[2:-1]]
    before = answer.probabilities_before[answer.label_before]
    assert cells == [answer.label, f"{100 * answer.probability:.1f} %", answer.label_before, f"{100 * before:.1f} %"]
    assert "a.jpg" in body
    note = " ".join(done.stdout[done.stdout.index("Model ") :].split())
    assert note.startswith(
        f"Model nano-clip; {answer.forwards:.0f} forward and {answer.backwards:.0f} backward passes per image."
    )
    assert "for photographs name another --model" in note


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--labels", "star"), "at least two"),
        ((), "Name the classes by --labels"),
        (("--labels", "star,heart", "--labels-file", "x.txt"), "by one of them alone"),
        (("--labels", "star,heart", "--json", "--csv"), "use one of them"),
        (("--labels", "star,star"), "'star' occurs more than once"),
        (("--labels", "star,,heart"), "Label 2 is empty"),
        (("--labels", "star,heart", "--model", "nothing"), "Unknown model 'nothing'"),
        (("--labels", "star,heart", "--model", "ViT-B-16/openai"), "not on this machine"),
        (("--labels", "star,heart", "--preset", "x"), "Unknown preset 'x'"),
        (("--labels", "star,heart", "--template", "x"), "exactly one {}"),
        (("--labels", "star,heart", "--device", "cuda"), "No CUDA device"),
    ],
)
def test_bad_arguments_are_one_sentence_and_status_2(awkward_folder: Path, arguments: tuple[str, ...], message: str) -> None:
    done = grpo_tta("predict", str(awkward_folder / "a.jpg"), *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_names_are_shown_as_they_are(tmp_path: Path, awkward_folder: Path) -> None:
    """Brackets are no markup, and a name of other bytes than text costs no answer."""
    (tmp_path / "[").mkdir()
    for name in (b"[draft] cat.png", b"draft].png", b"caf\xe9.png"):
        (tmp_path / "[" / os.fsdecode(name)).write_bytes((awkward_folder / "b.png").read_bytes())
    done = grpo_tta("predict", "[", "--labels", "[red] star,[red] heart", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    assert sorted(row[0] for row in rows) == ["[/[draft] cat.png", "[/caf\\xe9.png", "[/draft].png"]
    for _, label, probability, label_before, before in rows:
        assert {label, label_before} <= {"[red] star", "[red] heart"}
        assert 50 <= float(probability.removesuffix(" %")) <= 100
        assert 50 <= float(before.removesuffix(" %")) <= 100


def test_predict_reads_names_and_writes_csv(tmp_path: Path, awkward_folder: Path) -> None:
    (tmp_path / "names.txt").write_text("star\nred_heart\n")
    done = grpo_tta("predict", str(awkward_folder), "--labels-file", str(tmp_path / "names.txt"), "--csv")
    assert done.returncode == 1
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [Path(row["path"]).name for row in rows] == ["a.jpg", "b.png", "c.png", "d.jpg", "e.jpg", "f.jpg"]
    assert {row["label"] for row in rows[:4]} <= {"star", "red heart"}
    assert all(0.5 <= float(row["probability"]) <= 1 and not row["error"] for row in rows[:4])
    assert all("jpg: " in row["error"] and not row["label"] for row in rows[4:])


def test_an_interrupted_predict_keeps_what_it_has(
    awkward_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(classifier: object, load: object, count: int, batch: int) -> Iterator[tuple[int, str]]:
        yield 0, "a.jpg: a problem"
        raise KeyboardInterrupt

    monkeypatch.setattr("grpo_tta.classifier.classify", interrupted)
    monkeypatch.setattr(sys, "argv", ["grpo-tta", "predict", str(awkward_folder), "--labels", "star,heart"])
    with pytest.raises(SystemExit) as stop:
        cli()
    assert stop.value.code == 130
    problem, interrupted_after, summary = capsys.readouterr().err.splitlines()
    assert (problem, interrupted_after) == ("a.jpg: a problem", "Interrupted after 1 of 6 images.")
    assert summary.startswith("0 answered, 1 unreadable, ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tasks", "fog", "--template", "nonsense {}"), "belong to your own images"),
        (("--tasks", "fog", "--labels-file", "nowhere.txt"), "belong to your own images"),
        (("--tasks", "fog", "--seed", "-1"), "from 0 on"),
    ],
)
def test_bench_refuses_what_it_would_ignore(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = grpo_tta("bench", *arguments, "--methods", "zero-shot", "--limit", "2", "--out", str(tmp_path / "x"))
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "x").exists()


def test_bench_reports_errors(tmp_path: Path, awkward_folder: Path) -> None:
    """A damaged image is a row with an error for each method, and the run goes on."""
    for label in ("star", "heart"):
        (tmp_path / "mine" / label).mkdir(parents=True)
        (tmp_path / "mine" / label / "1.png").write_bytes((awkward_folder / "b.png").read_bytes())
    (tmp_path / "mine" / "star" / "2.jpg").write_bytes((awkward_folder / "e.jpg").read_bytes())
    done = grpo_tta("bench", "--data", str(tmp_path / "mine"), "--methods", "grpo-tta-fast", "--out", str(tmp_path / "x"))
    assert done.returncode == 0, done.stderr
    message = " ".join(done.stdout.split())
    assert "2 rows hold an error and count as wrong. The first: zero-shot on star/2.jpg" in message
    assert "truncated or damaged" in message


def test_demo_writes_what_it_promises(tmp_path: Path) -> None:
    done = grpo_tta("demo", "--out", str(tmp_path / "x"), "--limit", "4", "--tasks", "source,fog,digits", "--batch", "4")
    assert done.returncode == 0, done.stderr
    for word in ("shifted mean", "reward-argmax", "grpo-tta-paper", "forward passes", "milliseconds"):
        assert word in done.stdout
    summary = json.loads((tmp_path / "x" / "summary.json").read_text())
    assert [t["name"] for t in summary["tasks"]] == ["source", "fog", "digits"]
    for task in summary["tasks"]:
        assert set(task["methods"]) == {"zero-shot", "view-mean", "reward-argmax", "grpo-tta-paper", "grpo-tta"}
        for entry in task["methods"].values():
            assert 0 <= entry["ci95"][0] <= entry["accuracy"] <= entry["ci95"][1] <= 1
            assert entry["forwards"] >= 1
            assert entry["ms"] > 0
    assert summary["methods"]["grpo-tta"] == {"protocol": "episodic", "reward": "own"}
    assert (tmp_path / "x" / "demo.png").is_file()
    assert grpo_tta("demo", "--tasks", "nothing", "--out", str(tmp_path / "y")).returncode == 2
