"""Every script in examples/ runs as a user would run it, and prints what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from grpo_tta.data import nano

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: str, folder: Path) -> str:
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_drawings(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        Image.fromarray(nano.item("fog", "tuning", number).image).save(folder / f"{number:02d}.png")


def test_there_are_five_short_ones_and_each_is_run_here() -> None:
    found = {path.stem: path for path in EXAMPLES.glob("*.py")}
    tested = set(re.findall(r'run\("(\w+)"', Path(__file__).read_text()))
    assert set(found) == tested == {"predict", "own_reward", "own_method", "dataloader", "stream"}
    for path in found.values():
        assert len(path.read_text().splitlines()) < 40, path.name


def test_predict(tmp_path: Path) -> None:
    write_drawings(tmp_path / "drawings", 1)
    lines = run("predict", folder=tmp_path).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("drawing 3: ")
    assert re.fullmatch(r"  \d+\.\d forward and 0\.0 backward passes", lines[1])  # `fast` tunes behind the last block
    lines = run("predict", "drawings/00.png", folder=tmp_path).splitlines()
    assert lines[0].startswith("drawings/00.png: ")


def test_own_reward(tmp_path: Path) -> None:
    """The common classes, star and heart, earn more against arrow and house than with the default's reward."""
    printed = run("own_reward", folder=tmp_path)
    default, own = printed.split("common_here")
    rewards = [
        {label: float(reward) for label, reward in re.findall(r"^  (\w+) +reward ([+-][\d.]+)", part, re.MULTILINE)}
        for part in (default, own)
    ]
    assert all(set(found) == {"star", "heart", "arrow", "house"} for found in rewards)
    gaps = [found["star"] - found["arrow"] for found in rewards]
    assert gaps[1] - gaps[0] == pytest.approx(0.69, abs=0.15)  # log(0.4 / 0.1) / 2, less the default's 0.05 of a prior


def test_own_method(tmp_path: Path) -> None:
    table = run("own_method", "out", folder=tmp_path)
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()[2:]}
    assert set(rows) == {"zero-shot", "view-mean", "view-median"}
    assert {name: (float(forwards), int(images)) for name, (_, forwards, images) in rows.items()} == {
        "zero-shot": (1.0, 8),
        "view-mean": (24.0, 8),
        "view-median": (16.0, 8),
    }
    assert all(0 <= float(right) <= 1 for right, _, _ in rows.values())
    assert (tmp_path / "out" / "run.json").is_file()


def test_dataloader(tmp_path: Path) -> None:
    write_drawings(tmp_path / "drawings", 18)  # one batch of sixteen and a rest
    lines = [line.split("\t") for line in run("dataloader", "drawings", "star,heart,arrow", folder=tmp_path).splitlines()]
    assert [name for name, _, _ in lines] == [f"{number:02d}.png" for number in range(18)]
    assert {label for _, label, _ in lines} <= {"star", "heart", "arrow"}
    assert all(1 / 3 < float(probability) <= 1 for _, _, probability in lines)


def test_stream(tmp_path: Path) -> None:
    lines = run("stream", "48", folder=tmp_path).splitlines()
    found = [re.fullmatch(r"(\d+) images: zero-shot (\d\.\d\d), along the stream (\d\.\d\d)", line) for line in lines]
    assert [int(line[1]) for line in found if line] == [24, 48], "the second half goes on from the state of the first"
