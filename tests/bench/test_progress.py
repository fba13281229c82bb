"""How far a run has come: batch by batch, with a rate that earlier runs do not flatter."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from grpo_tta.backbones.base import Backbone
from grpo_tta.baselines.registry import choose_methods
from grpo_tta.bench import progress as module
from grpo_tta.bench.pace import Pace
from grpo_tta.bench.progress import progress, run_with_progress
from grpo_tta.bench.runner import run
from grpo_tta.bench.runs import RunSettings
from grpo_tta.data.tasks import nano_tasks


def test_a_run_reports_every_batch_and_what_was_done_before(nano_backbone: Backbone, tmp_path: Path) -> None:
    tasks, methods = nano_tasks(["fog"], "tuning", 10), choose_methods(["zero-shot"])
    settings = RunSettings(batch=3, chunk=5)

    def reports() -> list[tuple[str, int, bool]]:
        found: list[tuple[str, int, bool]] = []
        run(nano_backbone, tasks, methods, tmp_path, settings, lambda *report: found.append(report), timed=False)
        return found

    assert reports() == [("fog", count, False) for count in (3, 2, 3, 2)]
    assert reports() == [("fog", 5, True)] * 2
    next((tmp_path / "records").rglob("*000001*")).unlink()
    assert reports() == [("fog", 5, True), ("fog", 3, False), ("fog", 2, False)]


def test_images_of_an_earlier_run_are_no_part_of_the_rate() -> None:
    now = [0.0]
    pace = Pace(1_000, lambda: now[0])
    pace.advance(900, before=True)
    assert (pace.rate(), pace.left()) == ("starting", "")
    now[0] = 10.0
    pace.advance(20)
    assert (pace.count, pace.rate(), pace.left()) == (920, "2 per second", "0:00:40 left")


def test_a_line_every_half_minute_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    now, out = [0.0], io.StringIO()
    with progress(1_000, Console(file=out, width=80), clock=lambda: now[0]) as advance:
        for _ in range(10):
            now[0] += 10.0
            advance("fog", 16, False)
    assert capsys.readouterr().err.splitlines() == [
        "48 of 1,000 images, 1.6 per second, 0:09:55 left",
        "96 of 1,000 images, 1.6 per second, 0:09:25 left",
        "144 of 1,000 images, 1.6 per second, 0:08:55 left",
    ]
    assert out.getvalue() == ""


def test_a_bar_fits_80_columns() -> None:
    now, out = [0.0], io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system=None, legacy_windows=False)
    with progress(50_000, console, clock=lambda: now[0]) as advance:
        now[0] = 100.0
        advance("my photographs of the last holidays", 1_234, False)
    shown = out.getvalue()
    assert "my photographs …" in shown
    assert "1234/50000" in shown
    assert "12.3 per second" in shown
    assert "1:05:52 left" in shown


def test_a_share_of_a_run_counts_its_own_images(
    nano_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals: list[int] = []
    real = module.progress
    monkeypatch.setattr(module, "progress", lambda total, console: (totals.append(total), real(total, console))[1])
    tasks, methods = nano_tasks(["fog", "letters", "digits"], "tuning", 10), choose_methods(["zero-shot"])
    for place, settings in enumerate(
        (RunSettings(chunk=4), RunSettings(chunk=4, shard=(1, 2)), RunSettings(task_share=(0, 2)))
    ):
        some = replace(settings, batch=4)
        run_with_progress(nano_backbone, tasks, methods, tmp_path / str(place), some, Console(file=io.StringIO()), timed=False)
    assert totals == [30, 12, 20]
