"""`--batch auto` of predict and bench: what is chosen is used, said, and handed to workers as a number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from grpo_tta import UserError
from grpo_tta.backbones.base import Backbone
from grpo_tta.bench.runs import RunSettings
from grpo_tta.bench.table import TablePlan
from grpo_tta.cli.main import app
from grpo_tta.cli.options import number_of_batch, read_batch


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_a_batch_is_auto_or_a_number() -> None:
    assert (read_batch("auto"), read_batch("7"), number_of_batch("7")) == ("auto", 7, 7)
    for text in ("0", "-1", "many", "2.5", ""):
        with pytest.raises(UserError, match="auto or a whole number from 1 on"):
            read_batch(text)
    with pytest.raises(UserError, match="with --engine ray give --batch a number"):
        number_of_batch("auto")


def test_predict_takes_what_was_chosen(awkward_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_tta.classifier.choose_batch", lambda policy, methods: 3)
    words = ("predict", str(awkward_folder), "--labels", "star,heart", "--set", "views.views=2", "--csv")
    chosen, given = invoke(*words, "--batch", "auto"), invoke(*words, "--batch", "3")
    assert chosen.stdout == given.stdout
    assert "--batch auto: 3 images in flight." in chosen.stderr
    assert "in flight" not in given.stderr


def test_bench_chooses_for_all_methods_and_workers_get_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[RunSettings, TablePlan]] = []
    asked: list[tuple[list[str], int]] = []

    def chosen(policy: Any, methods: Sequence[Any], *, processes: int) -> int:
        asked.append(([m.name for m in methods], processes))
        return 5

    def run_table(
        backbone: Backbone, tasks: Any, methods: Any, out: Path, settings: RunSettings, console: Any, plan: TablePlan
    ) -> list[Path]:
        found.append((settings, plan))
        return []

    monkeypatch.setattr("grpo_tta.engine.in_flight.choose_batch", chosen)
    monkeypatch.setattr("grpo_tta.bench.table.run_table", run_table)
    words = ("bench", "--methods", "view-mean", "--tasks", "fog", "--limit", "1", "--workers", "2")
    assert "--batch auto: 5 images in flight." in invoke(*words, "--batch", "auto").stderr
    assert asked == [(["zero-shot", "view-mean"], 2)]
    invoke(*words)
    assert [settings.batch for settings, _ in found] == [5, 16]
    for (_, plan), number in zip(found, ("5", ""), strict=True):
        for command in plan.workers:
            assert (command[command.index("--batch") + 1] if "--batch" in command else "") == number
