"""`grpo-tta predict --online`: the rows are those of `GRPOTTA.stream`, and a killed or stopped run goes on to the same ones."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import load_file

import grpo_tta.cli.predictions as predictions
from grpo_tta.classifier import GRPOTTA
from grpo_tta.cli.main import main
from grpo_tta.data import nano
from grpo_tta.errors import UserError
from grpo_tta.method.online_settings import ONLINE
from grpo_tta.method.parse import change_settings

COUNT = 40
LABELS = ["star", "heart", "arrow"]
FEW = ("--labels", ",".join(LABELS), "--set", "views.views=2", "--online", "--quiet")
SETTINGS = replace(ONLINE, grpo=change_settings(ONLINE.grpo, ["views.views=2"]))


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Forty images, of which the third cannot be read: two whole minibatches and a rest."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    names = [f"photos/{number:02d}.png" for number in range(COUNT)]
    for number, name in enumerate(names):
        Image.fromarray(nano.item("fog", "tuning", number).image).save(name)
    Path(names[2]).write_text("not an image")
    return names


def predict(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["grpo-tta", "predict", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def rows_of(out: str) -> list[dict]:
    parts = sorted(Path(out, "predictions").glob("*.parquet"))
    return [row for part in parts for row in pq.read_table(part, columns=["image_id", "label", "probability"]).to_pylist()]


def expected(names: list[str]) -> list[float | None]:
    classifier = GRPOTTA("nano-clip", LABELS)
    stream = classifier.stream(names, "return", settings=SETTINGS)
    return [None if isinstance(answer, UserError) else answer.probability for answer in stream]


def check(out: str, names: list[str]) -> None:
    rows = rows_of(out)
    assert [row["image_id"] for row in rows] == names
    for row, probability in zip(rows, expected(names), strict=True):
        assert row["probability"] == (None if probability is None else pytest.approx(probability, abs=1e-6))


def test_rows_are_those_of_a_stream_whatever_the_batch(photos: list[str], monkeypatch, capsys) -> None:
    assert predict(monkeypatch, "photos", *FEW, "--csv", "--batch", "5") == 1
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["path"] for row in found] == photos
    for row, probability in zip(found, expected(photos), strict=True):
        assert (float(row["probability"]) if row["probability"] else None) == (
            None if probability is None else pytest.approx(probability, abs=1e-5)
        )


class Killed(BaseException):
    """As by SIGKILL: nothing more is written."""


def kill_after(monkeypatch: pytest.MonkeyPatch, what: str, count: int) -> Callable[[], None]:
    """The process dies before `predictions.FolderOutput.WHAT` is called for the so-manieth time. Returns what ends that."""
    original, calls = getattr(predictions.FolderOutput, what), 0

    def dying(self: predictions.FolderOutput, *given: object) -> None:
        nonlocal calls
        calls += 1
        if calls >= count:
            raise Killed
        original(self, *given)

    with_patch = pytest.MonkeyPatch()
    with_patch.setattr(predictions.FolderOutput, what, dying)
    with_patch.setattr(predictions.FolderOutput, "close", lambda self: self._lock and self._lock.close())
    return with_patch.undo


@pytest.mark.parametrize("written", [1, 7, 25, 39])
def test_a_killed_run_goes_on_to_the_same_answers(photos: list[str], monkeypatch, written: int) -> None:
    """Wherever it dies, with part files that end inside a minibatch."""
    words = ("photos", *FEW, "--out", "out", "--chunk", "6")
    undo = kill_after(monkeypatch, "write", written)
    monkeypatch.setattr(sys, "argv", ["grpo-tta", "predict", *words])
    with pytest.raises(Killed):
        main()
    undo()
    kept = rows_of("out")
    assert len(kept) == (written - 1) // 6 * 6
    assert int(load_file("out/state.safetensors")["predict.images"]) <= len(kept)
    assert predict(monkeypatch, *words) == 1
    check("out", photos)


def test_a_finished_folder_has_nothing_left_to_do(photos: list[str], monkeypatch) -> None:
    words = ("photos", *FEW, "--out", "out")
    for _ in range(2):
        assert predict(monkeypatch, *words) == 1
        check("out", photos)
    assert int(load_file("out/state.safetensors")["predict.images"]) == COUNT


def test_a_state_carries_one_command_into_the_next(photos: list[str], monkeypatch) -> None:
    first, second = photos[:32], photos[32:]
    assert predict(monkeypatch, *first, *FEW, "--state", "s.safetensors", "--out", "a") == 1
    assert int(load_file("s.safetensors")["stream.answered"]) == 32
    assert predict(monkeypatch, *second, *FEW, "--state", "s.safetensors", "--out", "b") == 0
    found = [row["probability"] for row in rows_of("a") + rows_of("b")]
    assert found == [None if one is None else pytest.approx(one, abs=1e-6) for one in expected(photos)]
    assert int(load_file("s.safetensors")["stream.answered"]) == COUNT
    assert int(load_file("b/state.safetensors")["predict.images"]) == 8


def test_a_stream_says_that_it_began_afresh(tmp_path: Path, monkeypatch, capsys) -> None:
    """Sixty-four drawings as they are, and a window of noisy ones, which raises the alarm where it is full."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for number in range(96):
        drawing = nano.item("source", "tuning", number).image.astype(float)
        noise = np.random.default_rng(number).normal(0, 0 if number < 64 else 80, drawing.shape)
        Image.fromarray(np.uint8((drawing + noise).clip(0, 255))).save(f"photos/{number:02d}.png")
    words = [word for word in FEW if word != "--quiet"]
    assert predict(monkeypatch, "photos", *words, "--state", "s.safetensors", "--csv") == 0
    assert "changed their look 1 time; what was learnt before was forgotten" in capsys.readouterr().err
    assert int(load_file("s.safetensors")["shift.restarts"]) == 1
    assert float(load_file("s.safetensors")["prior.count"]) == 16
    assert predict(monkeypatch, "photos/95.png", *words, "--state", "s.safetensors", "--csv") == 0
    assert "changed their look" not in capsys.readouterr().err, "that was in the command before"


def test_new_images_go_behind_the_others(photos: list[str], monkeypatch, capsys) -> None:
    assert predict(monkeypatch, *photos[4:8], *FEW, "--out", "out") == 0
    assert predict(monkeypatch, *photos[3:8], *FEW, "--out", "out") == 2
    assert "first and in the same order" in capsys.readouterr().err
    assert predict(monkeypatch, *photos[4:9], *FEW, "--out", "out") == 0
    assert [row["image_id"] for row in rows_of("out")] == photos[4:9]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--online", "--engine", "ray"), "Ray answers images in no order"),
        (("--state", "s.safetensors"), "add --online"),
        (("--online", "--preset", "fast"), "leave out --preset"),
        (("--online", "--embeddings", "e.npz"), "leave out --online or --embeddings"),
        (("--online", "--state", "photos/00.png"), "the state cannot be read"),
    ],
)
def test_what_a_stream_cannot_do_is_one_sentence(photos: list[str], monkeypatch, capsys, words, message: str) -> None:
    assert predict(monkeypatch, "photos", "--labels", "star,heart", *words) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1
    assert message in err[0]


def test_states_and_folders_of_others_are_refused(photos: list[str], monkeypatch, capsys) -> None:
    assert predict(monkeypatch, photos[0], *FEW, "--state", "s.safetensors", "--csv") == 0
    assert predict(monkeypatch, photos[0], *FEW, "--state", "s.safetensors", "--csv", "--seed", "1") == 2
    assert "another model, labels" in capsys.readouterr().err
    assert predict(monkeypatch, photos[0], "--labels", ",".join(LABELS), "--set", "views.views=2", "--out", "out") == 0
    assert predict(monkeypatch, photos[0], *FEW, "--out", "out") == 2
    assert "settings differ" in capsys.readouterr().err
    assert predict(monkeypatch, photos[0], *FEW, "--out", "new") == 0
    Path("new/state.safetensors").unlink()
    assert predict(monkeypatch, *photos[:2], *FEW, "--out", "new") == 2
    assert "without its state.safetensors" in capsys.readouterr().err


def test_the_service_refuses_a_stream(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["grpo-tta", "serve", "--labels", "a,b", "--online"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "Requests come in no order" in capsys.readouterr().err
