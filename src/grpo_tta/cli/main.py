"""The command line. Heavy imports happen inside the commands, so that `grpo-tta --help` answers at once."""

from __future__ import annotations

import atexit
import gc
import io
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from grpo_tta.backbones.allocator import keep_freed_memory
from grpo_tta.cli import bench, datasets, models, predict, report, sweep, web
from grpo_tta.cli.options import Batch, Device, Seed, Threads, make_console, say, split_list
from grpo_tta.errors import UserError

DEMO_METHODS = ("zero-shot", "view-mean", "reward-argmax", "grpo-tta-paper", "grpo-tta")

app = typer.Typer(
    name="grpo-tta",
    help="Adapts CLIP-like models to one unlabelled image at a time by Group Relative Policy Optimization.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of records, summary and figure. An existing run is resumed.")] = Path(
        "runs/demo"
    ),
    limit: Annotated[int, typer.Option(help="Images per task, at most 1000.")] = 48,
    tasks: Annotated[str, typer.Option(help="Comma-separated tasks. Default: all but the streams.")] = "",
    split: Annotated[str, typer.Option(help="reporting or tuning.")] = "reporting",
    seed: Seed = 0,
    batch: Batch = 16,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Adapt the shipped nano-clip on the nano suite: two presets and the controls, with a table and a figure."""
    from grpo_tta.backbones.base import load_backbone
    from grpo_tta.backbones.hardware import set_threads
    from grpo_tta.baselines.registry import choose_methods
    from grpo_tta.bench.runs import RunSettings
    from grpo_tta.cli.demo import run_demo
    from grpo_tta.data.tasks import nano_tasks

    set_threads(threads)
    chosen = nano_tasks(split_list(tasks) if tasks else None, split, limit)
    settings, methods = RunSettings(seed=seed, batch=batch), choose_methods(DEMO_METHODS)
    run_demo(load_backbone("nano-clip", device=device), chosen, methods, out, settings, split, make_console())


app.command()(predict.predict)
app.command()(bench.bench)
app.command()(sweep.sweep)
app.command()(report.report)
app.command()(web.serve)
app.command("app")(web.page)
app.command("models")(models.models)
app.add_typer(datasets.app, name="datasets")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"grpo-tta {version('grpo-tta')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


def main() -> None:
    """Entry point. A `UserError` is one sentence on standard error and exit status 2, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal of another encoding must not cost the answers: what it cannot show is written out, such as \u043a.
            stream.reconfigure(errors="backslashreplace")
    # `images.read` has a limit of its own, with a message of its own.
    warnings.filterwarnings("ignore", message=".*decompression bomb.*")
    keep_freed_memory()
    atexit.register(gc.freeze)  # to search all modules for garbage once more as the process ends would take a second
    try:
        app()
    except UserError as error:
        say(f"Error: {error}")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
