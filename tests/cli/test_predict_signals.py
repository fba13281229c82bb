"""`grpo-tta predict` that is stopped: every answered row is kept, the status names the signal, and a folder is resumed.

Every run is the command line in a process of its own, forked from a server that has imported the heavy modules already. What
is counted are rows; no test judges a clock.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from grpo_tta.data import nano

MANY = 600


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 images; the fourth of each ten is unreadable."""
    folder = tmp_path_factory.mktemp("many")
    Image.fromarray(nano.item("fog", "tuning", 0).image).save(folder / "0000.png")
    for number in range(1, MANY):
        if number % 10 == 3:
            (folder / f"{number:04d}.png").write_text("not an image")
        else:
            (folder / f"{number:04d}.png").hardlink_to(folder / "0000.png")
    return folder


def command_line(words: list[str], out: str, err: str, ignored: int) -> None:
    """`grpo-tta predict`, in this process, with its output in files."""
    from grpo_tta.cli.main import main

    torch.set_num_threads(1)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup
    if ignored:
        signal.signal(ignored, signal.SIG_IGN)
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115 (until the process ends)
    sys.argv = ["grpo-tta", "predict", *words, "--labels", "star,heart", "--set", "views.views=2", "--batch", "4"]
    main()


def start(tmp_path: Path, words: list[str], out: Path | None = None, ignored: int = 0) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["grpo_tta.cli.main", "grpo_tta.cli.predictions", "grpo_tta.backbones.open_clip"])
    places = str(out or tmp_path / "out.txt"), str(tmp_path / "err.txt")
    process = context.Process(target=command_line, args=(words, *places, ignored))
    process.start()
    return process


def wait_for(process: BaseProcess, ready: Callable[[], bool]) -> None:
    while process.is_alive() and not ready():
        time.sleep(0.01)


def rows_in(path: Path) -> int:
    """Lines that are whole, without the heading."""
    return path.read_bytes().count(b"\n") - 1 if path.exists() else 0


def stop(tmp_path: Path, words: list[str], signum: int, ignored: int = 0) -> int:
    """Sends a signal after the tenth row; returns the exit status."""
    process = start(tmp_path, words, ignored=ignored)
    wait_for(process, lambda: rows_in(tmp_path / "out.txt") >= 10)
    assert process.pid
    os.kill(process.pid, signum)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def check_rows(tmp_path: Path, many: Path) -> int:
    """The rows of the CSV are the first so many images, each whole, errors in their place. Returns how many."""
    rows = list(csv.DictReader((tmp_path / "out.txt").read_text().splitlines()))
    assert [row["path"] for row in rows] == [str(many / f"{number:04d}.png") for number in range(len(rows))]
    for number, row in enumerate(rows):
        assert bool(row["error"]) == (number % 10 == 3)
        assert row["label"] in (("",) if row["error"] else ("star", "heart"))
    return len(rows)


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_keeps_every_answered_row(tmp_path: Path, many: Path, signum: int, status: int) -> None:
    assert stop(tmp_path, [str(many), "--csv", "--embeddings", str(tmp_path / "e.parquet")], signum) == status
    count = check_rows(tmp_path, many)
    answered = [str(many / f"{number:04d}.png") for number in range(count) if number % 10 != 3]
    assert pq.read_table(tmp_path / "e.parquet")["id"].to_pylist() == answered
    assert 10 <= count < MANY
    last = (tmp_path / "err.txt").read_text().splitlines()[-2:]
    assert last[0] == f"Interrupted after {count} of {MANY} images."
    found = re.match(r"(\d+) answered, (\d+) unreadable, 0 changed, ", last[1])
    assert found
    assert int(found[1]) + int(found[2]) == count


def test_a_kill_costs_no_row_that_was_written(tmp_path: Path, many: Path) -> None:
    assert stop(tmp_path, [str(many), "--csv"], signal.SIGKILL) == -signal.SIGKILL
    text = (tmp_path / "out.txt").read_text()
    whole = text[: text.rindex("\n") + 1]
    assert text == whole, "a row is written at once or not at all"
    assert 10 <= check_rows(tmp_path, many) < MANY


def test_nohup_is_respected(tmp_path: Path, many: Path) -> None:
    some = tmp_path / "some.txt"
    some.write_text("".join(f"{many / f'{number:04d}.png'}\n" for number in range(40)))
    assert stop(tmp_path, ["--files-from", str(some), "--csv"], signal.SIGHUP, ignored=signal.SIGHUP) == 1
    assert check_rows(tmp_path, many) == 40


def test_a_closed_pipe_ends_the_command_quietly(tmp_path: Path, many: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = start(tmp_path, [str(many), "--jsonl"], pipe)
    with pipe.open() as reader:
        lines = [reader.readline() for _ in range(3)]
    process.join()
    assert [str(many / f"000{number}.png") in line for number, line in enumerate(lines)] == [True] * 3
    assert process.exitcode == 141
    said = (tmp_path / "err.txt").read_text().splitlines()
    assert all("not an image" in line for line in said), said


def test_a_folder_is_resumed_with_each_image_once(tmp_path: Path, many: Path) -> None:
    """Stopped by TERM, killed, and then left to finish on the first 120 images."""
    some, out = tmp_path / "some.txt", tmp_path / "answers"
    some.write_text("".join(f"{many / f'{number:04d}.png'}\n" for number in range(120)))
    file = tmp_path / "e.parquet"
    words = ["--files-from", str(some), "--out", str(out), "--chunk", "8", "--embeddings", str(file)]

    def parts() -> int:
        return len(list(out.glob("predictions/part-*.parquet")))

    def ids() -> list[str]:
        return [name for part in sorted(out.glob("predictions/part-*")) for name in pq.read_table(part)["image_id"].to_pylist()]

    seen = 0
    for signum, status in ((signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)):
        before = parts()
        process = start(tmp_path, words)
        wait_for(process, lambda before=before: parts() >= before + 2)
        assert process.pid
        os.kill(process.pid, signum)
        process.join()
        assert process.exitcode == status
        assert len(ids()) > seen
        seen = len(ids())
        if signum == signal.SIGTERM:
            found = re.search(r"Interrupted after (\d+) of 120 images", (tmp_path / "err.txt").read_text())
            assert found
            assert int(found[1]) == seen
            assert pq.read_metadata(file).num_rows == sum(int(Path(name).stem) % 10 != 3 for name in ids())
    process = start(tmp_path, words)
    process.join()
    assert process.exitcode == 1  # twelve of them are unreadable
    assert ids() == [str(many / f"{number:04d}.png") for number in range(120)]
    assert pq.read_table(file)["id"].to_pylist() == [name for name in ids() if int(Path(name).stem) % 10 != 3]
    assert "108 answered, 12 unreadable, 0 changed, " in (tmp_path / "err.txt").read_text()
