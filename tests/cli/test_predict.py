"""`grpo-tta predict`: inputs, outputs, resume and options, in this process. Signals have a file of their own."""

from __future__ import annotations

import csv
import io
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from grpo_tta.backbones.names import shipped_folder
from grpo_tta.bench.pace import Lines, show_rate
from grpo_tta.bench.predictions import Wanted
from grpo_tta.classifier import GRPOTTA, Prediction
from grpo_tta.cli.main import main
from grpo_tta.cli.predictions import FolderOutput, Tally
from grpo_tta.cli.progress import log, logging_to_stderr, progress
from grpo_tta.data import nano
from grpo_tta.errors import UserError
from grpo_tta.images.read import DecodedImage
from grpo_tta.method.parse import change_settings
from grpo_tta.method.settings import DEFAULT

FEW = ("--labels", "star,heart,arrow", "--set", "views.views=2", "--batch", "2")


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: list[str]

    @property
    def rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader(self.out.splitlines()))

    @property
    def names(self) -> list[str]:
        return [row["path"] for row in self.rows]


class Command:
    """The command line, in a folder of its own."""

    def __init__(self, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._patch, self._capsys = patch, capsys

    def __call__(self, *words: str, stdin: bytes = b"") -> Done:
        self._patch.setattr(sys, "argv", ["grpo-tta", "predict", *words])
        self._patch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as stop:
            main()
        found = self._capsys.readouterr()
        return Done(int(stop.value.code or 0), found.out, found.err.splitlines())


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """In a folder with photos/: a.png, b.png, c.jpg (no image), deep/er/d.png, and note.txt."""
    monkeypatch.chdir(tmp_path)
    Path("photos/deep/er").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "deep/er/d.png")):
        Image.fromarray(nano.item("fog", "tuning", number).image).save(Path("photos") / name)
    Path("photos/c.jpg").write_text("not an image")
    Path("photos/note.txt").write_text("a note")
    return Command(monkeypatch, capsys)


ALL = ["photos/a.png", "photos/b.png", "photos/c.jpg", "photos/deep/er/d.png"]


def answers(paths: Sequence[str], **options: int) -> list[Prediction]:
    settings = change_settings(DEFAULT, ["views.views=2"])
    return GRPOTTA("nano-clip", ["star", "heart", "arrow"], settings=settings, batch=2).predict(paths)


# Outputs


def test_csv_rows_stand_in_the_order_of_the_images_errors_among_them(command: Command) -> None:
    done = command("photos", *FEW, "--csv")
    assert done.status == 1
    assert done.names == ALL
    assert "not an image" in done.rows[2]["error"]
    assert done.rows[2]["label"] == ""
    good = [done.rows[number] for number in (0, 1, 3)]
    for row, answer in zip(good, answers([row["path"] for row in good]), strict=True):
        assert (row["label"], row["label_before"], row["abstained"]) == (answer.label, answer.label_before, "false")
        assert float(row["probability"]) == pytest.approx(answer.probability, abs=1e-5)


def test_rows_are_written_before_the_last_image_is_read(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import grpo_tta.images.inputs as inputs

    for number in range(20):
        Path(f"photos/x{number}.png").hardlink_to("photos/a.png")
    written: list[str] = []
    monkeypatch.setattr(sys, "stdout", stream := io.StringIO())
    original = inputs.load_decoded

    def load(path: Path, least_side: int | None) -> DecodedImage:
        written.append(stream.getvalue())
        return original(path, least_side)

    monkeypatch.setattr(inputs, "load_decoded", load)
    command("photos", *FEW, "--csv")
    assert len(written) == 24
    assert "photos/a.png,heart" in written[-1]


def test_json_lines_hold_the_top_k_and_all_on_request(command: Command) -> None:
    done = command("photos", *FEW, "--jsonl", "--top-k", "2")
    first, second, bad, last = [json.loads(line) for line in done.out.splitlines()]
    assert [row["path"] for row in (first, second, bad, last)] == ALL
    assert set(bad) == {"path", "error"}
    (answer,) = answers(ALL[:1])
    ranked = sorted(answer.probabilities, key=lambda label: -answer.probabilities[label])
    assert first["top_labels"] == ranked[:2]
    assert first["top_probabilities"][0] == first["probability"] == pytest.approx(answer.probability, abs=1e-5)
    assert "probabilities" not in first
    every = json.loads(command(ALL[0], *FEW, "--jsonl", "--all-probabilities").out)
    assert list(every["probabilities"]) == ["star", "heart", "arrow"]
    assert len(every["top_labels"]) == 3  # no more than there are


def test_below_the_threshold_the_label_is_empty(command: Command) -> None:
    sure = json.loads(command(ALL[0], *FEW, "--jsonl").out)
    done = command(ALL[0], *FEW, "--jsonl", "--threshold", "1")
    row = json.loads(done.out)
    assert (row["label"], row["abstained"]) == ("", True)
    assert row["top_labels"] == sure["top_labels"]
    assert "1 abstained" in done.err[-1]
    assert json.loads(command(ALL[0], *FEW, "--json", "--threshold", "1").out)["predictions"][0]["label"] == ""
    assert "(abstained)" in command(ALL[0], *FEW, "--threshold", "1").out
    assert json.loads(command(ALL[0], *FEW, "--jsonl", "--threshold", f"{sure['probability'] - 1e-4}").out)["label"]


def test_the_summary_is_the_last_line_of_standard_error(command: Command) -> None:
    done = command("photos", *FEW, "--csv")
    assert len(done.err) == 3
    assert "note" not in done.err[1]
    changed = sum(bool(row["label"]) and row["label"] != row["label_before"] for row in done.rows)
    assert done.err[-1].startswith(f"3 answered, 1 unreadable, {changed} changed, ")
    assert done.err[-1].endswith(" forward passes per image")


def test_summary_in_words() -> None:
    tally = Tally(48_912, 88, 3_104, 0, 48_912 * 7.1, 0.0)
    expected = "48,912 answered, 88 unreadable, 3,104 changed, 12.3 per second, 7.1 forward passes per image"
    assert tally.summary(12.34) == expected
    assert [show_rate(x) for x in (0.2134, 12.34, 1234.5)] == ["0.213 per second", "12.3 per second", "1,234 per second"]


def test_a_full_disk_is_one_sentence(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    done = command(ALL[0], *FEW, "--csv")
    assert done.status == 2
    assert done.err == ["Error: The answers cannot be written (No space left on device); make room, or name another place."]


# A folder of Parquet


def parquet(folder: str = "out") -> list[dict[str, object]]:
    return [row for part in sorted(Path(folder, "predictions").glob("*.parquet")) for row in pq.read_table(part).to_pylist()]


def test_the_rows_of_a_folder_are_those_of_json_lines(command: Command) -> None:
    assert command("photos", *FEW, "--out", "out").status == 1
    rows = parquet()
    assert [row["image_id"] for row in rows] == ALL
    assert [row["error"] is None for row in rows] == [True, True, False, True]
    lines = [json.loads(line) for line in command("photos", *FEW, "--jsonl").out.splitlines()]
    for row, line in zip(rows, lines, strict=True):
        assert {key: value for key, value in row.items() if value is not None and key != "image_id"} == {
            key: value for key, value in line.items() if key != "path"
        }


def test_an_equal_command_answers_only_what_is_left(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    few = (*FEW, "--out", "out", "--chunk", "2")
    assert command(*ALL[:3], *few).status == 1
    assert len(list(Path("out/predictions").glob("*.parquet"))) == 2
    done = command("photos", *few)
    assert [row["image_id"] for row in parquet()] == ALL
    assert done.err[1] == "out: 3 images of 4 answered before."
    assert done.err[-1].startswith("3 answered, 1 unreadable, ")
    again = command("photos", *few)
    assert again.status == 1  # as it was: an image could not be read
    assert "per second" not in again.err[-1]
    assert len(parquet()) == 4


@pytest.mark.parametrize(
    ("words", "entry"),
    [
        (("--top-k", "2"), "top_k"),
        (("--seed", "1"), "seed"),
        (("--threshold", "0.5"), "threshold"),
        (("--all-probabilities",), "all_probabilities"),
        (("--template", "a {}"), "templates"),
        (("--set", "steps.count=2"), "settings"),
        (("--labels", "star,heart"), "labels"),
        (("--model", "photo-clip"), "fingerprint"),
        (("--dtype", "bfloat16"), "dtype"),
    ],
)
def test_another_command_is_refused(command: Command, words: tuple[str, ...], entry: str) -> None:
    assert command(ALL[0], *FEW, "--out", "out").status == 0
    done = command(ALL[0], *FEW, "--out", "out", *words)
    assert done.status == 2
    assert "another run" in done.err[0]
    assert entry in done.err[0]
    assert len(parquet()) == 1


def test_what_changes_no_answer_is_no_other_command(command: Command) -> None:
    assert command(ALL[0], *FEW, "--out", "out").status == 0
    assert command(ALL[0], *FEW, "--out", "out", "--batch", "1", "--chunk", "1").status == 0


def test_all_probabilities_are_numbers_in_the_order_of_the_labels(command: Command) -> None:
    command(ALL[0], *FEW, "--out", "out", "--all-probabilities")
    (row,) = parquet()
    (answer,) = answers(ALL[:1])
    assert row["probabilities"] == pytest.approx(list(answer.probabilities.values()), abs=1e-5)
    assert json.loads(Path("out/run.json").read_text())["labels"] == list(answer.probabilities)


DESCRIPTION = {"all_probabilities": False, "format": 2}


def answered(number: int) -> tuple[Path, Prediction]:
    labels = {f"a label of some length, number {i}": (i == number % 1000) * 0.5 + 0.0005 for i in range(1000)}
    best = max(labels, key=lambda label: labels[label])
    return Path(f"photos/2026/{number:06d}.jpg"), Prediction(best, labels[best], labels, best, labels, 7.1, 0.4)


def row_of(number: int) -> dict[str, object]:
    path, answer = answered(number)
    return Wanted().row(str(path), answer)


def test_a_part_is_written_when_it_is_old(tmp_path: Path) -> None:
    now = [0.0]
    output = FolderOutput(tmp_path, DESCRIPTION, 100, lambda: now[0])
    for number, when in enumerate((0.0, 30.0, 61.0, 62.0)):
        now[0] = when
        output.write(*answered(number), row_of(number))
    assert len(list((tmp_path / "predictions").glob("*.parquet"))) == 1
    assert output._began == 62.0
    output.close()
    assert [len(pq.read_table(part)) for part in sorted((tmp_path / "predictions").glob("*"))] == [3, 1]


def test_rows_of_a_thousand_labels_are_small(tmp_path: Path) -> None:
    """50,000 of them in at most 60 MB."""
    output = FolderOutput(tmp_path, DESCRIPTION, 128)
    for number in range(1024):
        output.write(*answered(number), row_of(number))
    output.close()
    size = sum(part.stat().st_size for part in (tmp_path / "predictions").iterdir())
    assert 50_000 / 1024 * size <= 60e6


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    first = FolderOutput(tmp_path, DESCRIPTION, 100)
    with pytest.raises(UserError, match="another process writes there"):
        FolderOutput(tmp_path, DESCRIPTION, 100)
    first.close()
    FolderOutput(tmp_path, DESCRIPTION, 100).close()


# Embeddings


def embedded(file: str) -> tuple[list[str], np.ndarray]:
    if file.endswith(".npz"):
        found = np.load(file)
        return found["ids"].tolist(), found["embeddings"]
    table = pq.read_table(file)
    return table["id"].to_pylist(), np.array(table["embedding"].to_pylist())


@pytest.mark.parametrize("words", [("--csv",), ("--jsonl",), ("--json",), (), ("--out", "out", "--chunk", "2")])
@pytest.mark.parametrize("file", ["e.parquet", "e.npz"])
def test_embeddings_are_those_of_embed(command: Command, words: tuple[str, ...], file: str) -> None:
    """Of the images that have an answer; the rows themselves stay as they are without the option."""
    done = command("photos", *FEW, *words, "--embeddings", file)
    assert done.status == 1
    ids, found = embedded(file)
    good = [name for name in ALL if name != "photos/c.jpg"]
    assert ids == good
    settings = change_settings(DEFAULT, ["views.views=2"])
    expected = GRPOTTA("nano-clip", ["star", "heart", "arrow"], settings=settings).embed(good)
    assert found == pytest.approx(expected.numpy(), abs=1e-5)
    if "--out" not in words:
        assert done.out == command("photos", *FEW, *words).out


def test_a_resumed_run_has_the_embeddings_of_all_its_rows(command: Command) -> None:
    few = (*FEW, "--out", "out", "--chunk", "1", "--embeddings", "e.parquet")
    command(*ALL[1:3], *few)
    assert embedded("e.parquet")[0] == ALL[1:2]
    Path("e.parquet").unlink()
    for _ in range(2):  # the second time nothing is left to answer
        command("photos", *few)
        assert embedded("e.parquet")[0] == [ALL[1], ALL[0], ALL[3]]
    done = command("photos", *FEW, "--out", "out")
    assert done.status == 2
    assert "another run (embeddings differ)" in done.err[-1]


# Device, precision, threads and weights


def test_what_computed_is_written_and_may_change(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_tta.backbones.hardware._cpuinfo", lambda: "flags : avx512_bf16\n")
    few = (ALL[0], *FEW, "--out", "out", "--device", "cpu")
    done = command(*few, "--dtype", "auto")
    assert done.err[0] == "--dtype auto: bfloat16, since this processor multiplies it faster (avx512_bf16)."
    run = json.loads(Path("out/run.json").read_text())
    assert (run["device"], run["dtype"]) == ("cpu", "bfloat16")
    Path("out/run.json").write_text(json.dumps(run | {"device": "cuda"}))
    assert command(*few, "--dtype", "bfloat16").status == 0


def test_threads_of_the_model(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", given.append)
    command(ALL[0], *FEW, "--csv", "--threads", "2")
    assert given == [2]
    assert "--threads to at least 1" in command(ALL[0], *FEW, "--csv", "--threads", "0").err[0]


def test_weights_of_a_file(command: Command) -> None:
    """Equal weights give equal answers; another file is another run, even by the same name."""
    state = load_file(str(shipped_folder("nano-clip") / "open_clip_model.safetensors"))
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, "mine.pt")
    few = (ALL[0], *FEW, "--weights", "mine.pt")
    assert command(*few, "--csv").rows == command(ALL[0], *FEW, "--csv").rows
    assert json.loads(command(*few, "--json").out)["model"] == "nano-clip (mine.pt)"
    assert command(*few, "--out", "out").status == 0
    torch.save({"state_dict": state, "epoch": 1}, "mine.pt")
    assert "another run (fingerprint differ)" in command(*few, "--out", "out").err[0]


# Inputs


@pytest.mark.parametrize(
    ("words", "stdin", "names"),
    [
        (["photos/**/*.png"], b"", ["photos/a.png", "photos/b.png", "photos/deep/er/d.png"]),
        (["photos/*.png", "photos/a.png"], b"", ["photos/a.png", "photos/b.png"]),
        (["photos/[ab].*"], b"", ["photos/a.png", "photos/b.png"]),
        (["-"], b"photos/b.png\r\n\nphotos/a.png\n", ["photos/b.png", "photos/a.png"]),
        (["--files-from", "-"], b"photos/b.png\0photos/a.png\0", ["photos/b.png", "photos/a.png"]),
        (["photos/b.png", "--files-from", "list"], b"", ["photos/b.png", "photos/deep/er/d.png", "photos/a.png"]),
    ],
)
def test_inputs(command: Command, words: list[str], stdin: bytes, names: list[str]) -> None:
    Path("list").write_text("photos/deep\nphotos/b.png\nphotos/a.png")  # a folder is searched, and an image answered once
    done = command(*words, *FEW, "--csv", stdin=stdin)
    assert (done.status, done.names) == (0, names), done.err


def test_urls_give_the_rows_of_the_files(command: Command, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name in ALL:
        memory.pipe(f"/{name}", Path(name).read_bytes())
    local = {row["path"]: row for row in command("photos", *FEW, "--csv").rows}
    Path("list").write_text(
        f"memory://photos/deep/\nmemory://photos/a.png\n{tmp_path.as_uri()}/photos/b.png\nmemory://no.png\n"
    )
    for words, start in ((["memory://photos"], "memory://"), ([f"{tmp_path.as_uri()}/photos"], f"{tmp_path.as_uri()}/")):
        done = command(*words, *FEW, "--csv")
        assert done.status == 1
        assert done.names == [start + name for name in ALL]
        for row in done.rows:
            expected = local[row["path"].removeprefix(start)]
            assert {**row, "path": "", "error": ""} == {**expected, "path": "", "error": ""}
            assert bool(row["error"]) == bool(expected["error"])
    done = command("--files-from", "list", *FEW, "--csv")
    assert done.names == [
        "memory://photos/deep/er/d.png", "memory://photos/a.png", f"{tmp_path.as_uri()}/photos/b.png", "memory://no.png"
    ]  # fmt: skip
    assert [bool(row["error"]) for row in done.rows] == [False, False, False, True]
    memory.rm("/photos", recursive=True)


def test_a_glob_says_what_it_left_out(command: Command) -> None:
    done = command("photos/*", *FEW, "--csv")
    assert done.names == ALL[:3]
    assert done.err[0] == "photos/*: skipped 1 that are not read as images."


def test_a_name_with_brackets_that_is_there_is_no_glob(command: Command) -> None:
    Path("photos/[a].png").write_bytes(Path("photos/a.png").read_bytes())
    assert command("photos/[a].png", *FEW, "--csv").names == ["photos/[a].png"]


def test_a_listed_file_that_is_gone_is_a_row(command: Command) -> None:
    done = command("-", *FEW, "--csv", stdin=b"photos/gone.png\nphotos/a.png\n")
    assert done.status == 1
    assert done.names == ["photos/gone.png", "photos/a.png"]
    assert "no such file" in done.rows[0]["error"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "No images were given"),
        (("photos/**/*.gif",), "no image matches"),
        (("nothing.png",), "no such file"),
        (("memory://nothing",), "no such file or folder; check the address"),
        (("nosuch://nothing",), "install the fsspec package"),
        (("-", "--files-from", "-"), "more than once"),
        (("-",), "names no images"),
        (("--files-from", "nothing"), "list cannot be read"),
        ((ALL[0], "--top-k", "0"), "at least 1"),
        ((ALL[0], "--threshold", "2"), "from 0 to 1"),
        ((ALL[0], "--jsonl", "--csv"), "use one of them"),
        ((ALL[0], "--csv", "--out", "x"), "use one of them"),
        ((ALL[0], "--verbose", "--quiet"), "use one of them"),
        ((ALL[0], "--out", "x", "--chunk", "0"), "at least 1"),
        ((ALL[0], "--embeddings", "e.npy"), "written as .parquet or .npz"),
        ((ALL[0], "--weights", "nothing.pt"), "weights cannot be read"),
        ((ALL[0], "--config", "nothing.toml"), "cannot be read"),
    ],
)
def test_bad_arguments_are_one_sentence(command: Command, words: tuple[str, ...], message: str) -> None:
    done = command(*words, *FEW)
    assert done.status == 2
    assert len(done.err) == 1
    assert message in done.err[0]
    assert done.out == ""


# Configuration


def test_options_from_a_file_and_the_command_line_wins(command: Command) -> None:
    Path("c.toml").write_text(
        'labels = ["star", "heart", "arrow"]\ntop-k = 2\nall_probabilities = true\n'
        'jsonl = true\nset = ["views.views=2"]\nbatch = 2\n'
    )
    row = json.loads(command(ALL[0], "--config", "c.toml").out)
    assert row == json.loads(command(ALL[0], *FEW, "--jsonl", "--top-k", "2", "--all-probabilities").out)
    assert len(json.loads(command(ALL[0], "--config", "c.toml", "--top-k", "1").out)["top_labels"]) == 1
    assert command(ALL[0], "--config", "c.toml", "--csv").rows  # one output excludes the other
    Path("names.txt").write_text("fish\nbird\n")
    assert command(ALL[0], "--config", "c.toml", "--csv", "--labels-file", "names.txt").rows[0]["label"] in ("fish", "bird")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("topk = 3", "unknown option 'topk'; did you mean top-k?"),
        ("csv = 1", "csv takes true or false"),
        ("seed = true", "seed takes text or a number"),
        ('labels = ["a, b", "c"]', "with a comma in it"),
        ("top-k: 3", "not TOML"),
        ("config = 'x'", "unknown option 'config'"),
    ],
)
def test_a_bad_file_is_one_sentence(command: Command, content: str, message: str) -> None:
    Path("c.toml").write_text(content)
    done = command(ALL[0], "--config", "c.toml", "--labels", "a,b")
    assert done.status == 2
    assert message in done.err[0]
    assert len(done.err) == 1


# The log


def test_quiet_leaves_errors_and_verbose_adds_the_model(command: Command) -> None:
    assert command(ALL[0], *FEW, "--csv", "--quiet").err == []
    (line,) = command("photos", *FEW, "--csv", "-q").err
    assert "c.jpg: not an image" in line
    assert command(ALL[0], *FEW, "--csv", "-v").err[0].startswith("Model nano-clip (")
    assert not log.handlers
    assert log.level == logging.NOTSET


def test_a_line_every_half_minute_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with logging_to_stderr(verbose=False, quiet=False):
        lines = Lines(1_000, lambda: now[0])
        for _ in range(100):
            now[0] += 1.0
            lines.advance()
    assert capsys.readouterr().err.splitlines() == [
        f"{n} of 1,000 images, 1 per second, 0:{(1000 - n) // 60}:{(1000 - n) % 60:02d} left" for n in (30, 60, 90)
    ]


def test_images_that_come_together_count_together(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with logging_to_stderr(verbose=False, quiet=False):
        lines = Lines(100, lambda: now[0])
        now[0] = 40.0
        lines.advance(20)  # as a cluster reports them
    assert capsys.readouterr().err == "20 of 100 images, 0.5 per second, 0:02:40 left\n"


def test_a_bar_with_count_rate_and_time_left_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    now = [0.0]
    with logging_to_stderr(verbose=False, quiet=False), progress(100, clock=lambda: now[0]) as advance:
        assert "0/100" in terminal.getvalue()
        now[0] = 0.5
        advance()
        log.warning("a note")
    shown = terminal.getvalue()
    assert "1/100" in shown
    assert "2 per second" in shown
    assert "0:00:50 left" in shown
    assert "a note" in shown


# Reading ahead, and large photographs


def test_rows_do_not_depend_on_the_workers(command: Command) -> None:
    for number in range(7):
        Path(f"photos/x{number}.png").hardlink_to("photos/a.png")
    found = [command("photos", *FEW, "--csv", "--workers", workers) for workers in ("0", "1", "3", "auto")]
    assert all(done.out == found[0].out and done.status == 1 for done in found)
    assert len(found[0].rows) == 11


@pytest.mark.parametrize("workers", ["-1", "many", "1.5"])
def test_workers_are_a_number_or_auto(command: Command, workers: str) -> None:
    done = command("photos", *FEW, "--csv", "--workers", workers)
    assert done.status == 2
    assert f"--workers is auto or a whole number from 0 on, not {workers!r}." in " ".join(done.err)


def test_a_folder_is_bound_to_the_resolution(command: Command) -> None:
    command("photos", *FEW, "--out", "answers", "--full-resolution")
    assert json.loads(Path("answers/run.json").read_text())["settings"]["views"]["full_resolution"] is True
    done = command("photos", *FEW, "--out", "answers")
    assert done.status == 2
    assert "settings" in " ".join(done.err)
