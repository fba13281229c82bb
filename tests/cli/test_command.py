"""Options declared once: as parameters of a command, as one value, and as a command line again."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from grpo_tta.cli import bench as bench_command
from grpo_tta.cli.bench import NOT_FOR_WORKERS, bench
from grpo_tta.cli.bench_options import BenchOptions
from grpo_tta.cli.command import command_line, command_of
from grpo_tta.cli.datasets import CheckOptions
from grpo_tta.cli.main import app
from grpo_tta.cli.options import RayOptions, read_seeds
from grpo_tta.cli.predict import PredictOptions
from grpo_tta.cli.sweep import SweepOptions
from grpo_tta.cli.web import ServeOptions
from grpo_tta.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Small:
    paths: Annotated[list[Path], typer.Argument(help="Files.")]
    some: Annotated[list[str], typer.Option("--set", help="Pairs.")] = field(default_factory=list)
    two_words: Annotated[int | None, typer.Option(help="A number.")] = None
    quick: Annotated[bool, typer.Option("--quick", help="A flag.")] = False
    decode: Annotated[bool, typer.Option(help="On unless switched off.")] = True


def received(*words: str) -> Small:
    found: list[Small] = []
    small = typer.Typer()

    @small.command()
    @command_of(Small)
    def run(options: Small) -> None:
        """Runs."""
        found.append(options)

    done = CliRunner().invoke(small, list(words))
    assert done.exit_code == 0, done.output
    return found[0]


def test_a_command_gets_one_value() -> None:
    assert received("a") == Small(paths=[Path("a")])
    words = ["a", "b", "--set", "x=1", "--set", "y=[2, 3]", "--two-words", "0", "--quick", "--no-decode"]
    expected = Small(paths=[Path("a"), Path("b")], some=["x=1", "y=[2, 3]"], two_words=0, quick=True, decode=False)
    assert received(*words) == expected


def test_options_become_a_command_line_again() -> None:
    options = Small(paths=[Path("a")], some=["x=1", "y=2"], two_words=0, quick=True, decode=False)
    assert command_line(options) == ["--set", "x=1", "--set", "y=2", "--two-words", "0", "--quick", "--no-decode"]
    assert command_line(options, ("some", "quick")) == ["--two-words", "0", "--no-decode"]
    assert command_line(Small(paths=[Path("a")])) == []
    assert received("a", *command_line(options)) == options


def test_workers_get_the_options_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[BenchOptions] = []
    monkeypatch.setattr(bench_command, "_bench_here", lambda options, console: found.append(options))
    words = ["bench", "--methods", "zero-shot,grpo-tta", "--set", "group=Nucleus(mass=0.9)", "--set", "reward=own.py:mine"]
    words += ["--limit", "3", "--data", "my photos", "--workers", "2", "--report", "--dtype", "bfloat16", "--official-split"]
    monkeypatch.setattr(bench_command, "report", lambda *_, **__: None)
    assert CliRunner().invoke(app, words).exit_code == 0
    passed_on = command_line(found[0], NOT_FOR_WORKERS)
    assert not {"--workers", "--report", "--task-share"} & set(passed_on)
    assert CliRunner().invoke(app, ["bench", *passed_on, "--task-share", "0/2"]).exit_code == 0
    differ = {f.name for f in fields(BenchOptions) if getattr(found[0], f.name) != getattr(found[1], f.name)}
    assert differ == set(NOT_FOR_WORKERS)


@pytest.mark.parametrize("options", [BenchOptions, PredictOptions, SweepOptions, ServeOptions, CheckOptions, RayOptions])
def test_every_option_has_short_help(options: type) -> None:
    """Most sentences of at most 25 words."""
    for parameter in inspect.signature(command_of(options)(lambda options: None), eval_str=True).parameters.values():
        (info,) = parameter.annotation.__metadata__
        assert info.help, parameter.name
        assert max(len(sentence.split()) for sentence in re.split(r"[.:;] ", info.help)) <= 25, parameter.name


def test_bench_keeps_its_name_and_help() -> None:
    assert bench.__name__ == "bench"
    assert (bench.__doc__ or "").startswith("Measure methods")


def test_seeds_are_whole_numbers() -> None:
    assert read_seeds("0, 2,10") == [0, 2, 10]
    with pytest.raises(UserError, match="Seed 'x' is no whole number"):
        read_seeds("0,x")
