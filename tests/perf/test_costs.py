"""perf/costs.py: its arithmetic by hand, its table, and rows on nano-clip; no clock is judged."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from grpo_tta.engine.interface import Adaptation, Cost, ImageBatch, Method, no_cached_blocks
from tests.scripts import load_script


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for beside in ("perf/overhead.py", "perf/gpu.py"):
        load_script(beside, monkeypatch)
    return load_script("perf/costs.py", monkeypatch)


def test_the_price_of_a_million_by_hand(costs: ModuleType) -> None:
    assert costs.price_of_a_million(100.0, 3.6) == pytest.approx(10.0)  # 10,000 seconds are 2.78 hours
    assert costs.price_of_a_million(1.0, 0.0) == 0.0


def test_the_table_says_what_was_not_measured(costs: ModuleType) -> None:
    found = {
        "default": {"images_per_second": 0.1234, "in_flight": 2, "peak_mb": 512.4},
        "fast": {"images_per_second": 1234.6, "in_flight": 2, "peak_mb": 3.2},
        "rlcf": {"error": "MemoryError"},
    }
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in costs.table(found, 1.0)[2:]
    }
    assert rows["default"] == ["0.12", "512", "2,251"]
    assert rows["fast"] == ["1,235", "3", "0.22"]
    assert rows["rlcf"] == rows["online"] == ["not measured"] * 3
    assert list(rows) == list(costs.ROWS)
    assert len(costs.table(found, 1.0, ["fast"])) == 3  # a heading and the row that was asked for


@pytest.mark.parametrize("row", ["zero-shot", "fast", "online", "rlcf"])
def test_a_row_of_nano_clip(row: str, costs: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--price-per-hour", "0", "--models", "nano-clip", "--smoke", "--row", row, "--in-flight", "2"]
    assert costs.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images_per_second"] > 0
    assert found["in_flight"] == (1 if row == "rlcf" else 2)
    assert (found["forwards"], found["backwards"]) == {
        "zero-shot": (1, 0),
        "fast": (7, 0),  # the step on the norms of the head is behind all blocks
        "rlcf": (64 + 6 + 3 * 6 + 1, 3 * 6),  # the teacher reads the six, too
    }.get(row, (found["forwards"], found["backwards"]))


def test_the_online_row_goes_on_with_its_stream(costs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[dict[str, torch.Tensor]] = []

    def run(policy: object, batch: ImageBatch, state: dict[str, torch.Tensor]) -> tuple[Adaptation, dict[str, torch.Tensor]]:
        handed.append(state)
        after = batch.encoded.log_probs[:, 0]
        return Adaptation(after, after, Cost(1.0)), {"calls": torch.tensor(len(handed))}

    method = Method("counted", "online", "none", 1, 0, None, no_cached_blocks, run)
    monkeypatch.setattr(costs, "method_of", lambda *given: method)
    costs.measure_row("online", "nano-clip", torch.device("cpu"), "float32", 1, costs.SMOKE)
    assert handed == [{}, {"calls": torch.tensor(1)}]  # one call warms up


def test_the_teacher_of_rlcf_is_a_second_model(costs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    make = costs.make_policy

    def watched(model: str, device: torch.device, dtype: torch.dtype) -> object:
        made.append(model)
        return make(model, device, dtype)

    monkeypatch.setattr(costs, "make_policy", watched)
    costs.measure_row("rlcf", "nano-clip", torch.device("cpu"), "float32", 2, costs.SMOKE)
    assert made == ["nano-clip", "nano-clip"]


def test_every_row_has_a_process_and_a_failure_is_said(
    costs: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    class Done:
        def __init__(self, row: str) -> None:
            self.returncode = int(row == "online")
            self.stdout = 'a line\n{"images_per_second": 2.0, "in_flight": 3, "peak_mb": 7.0}\n'
            self.stderr = "Traceback\nMemoryError: no room\n"

    def run(command: list[str], **_: object) -> Done:
        commands.append(command)
        return Done(command[command.index("--row") + 1])

    monkeypatch.setattr(costs, "subprocess", SimpleNamespace(run=run))
    out = tmp_path / "costs.json"
    words = ["--price-per-hour", "3.6", "--models", "nano-clip,ViT-B-16", "--rows", "default,online", "--in-flight", "3"]
    assert costs.main([*words, "--json", str(out)]) == 1
    assert len(commands) == 4
    document = json.loads(out.read_text())
    assert document["models"]["ViT-B-16"] == {
        "default": {"images_per_second": 2.0, "in_flight": 3, "peak_mb": 7.0},
        "online": {"error": "MemoryError: no room"},
    }
    assert "| default | 2.0 | 7 | 500 |" in capsys.readouterr().out
