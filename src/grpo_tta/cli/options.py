"""What the commands share: options with their help, lists on the command line, and the console. Imports nothing heavy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from grpo_tta.errors import UserError, as_text

if TYPE_CHECKING:
    from rich.console import Console

    from grpo_tta.backbones.base import Dtype
    from grpo_tta.cluster.settings import RaySettings
    from grpo_tta.method.settings import GRPOSettings

_MODEL = (
    "nano-clip or photo-clip (shipped); ARCHITECTURE/PRETRAINED of open_clip; hf-hub:ORG/NAME of its hub; ORG/NAME in "
    "transformers' format (CLIP, SigLIP); timm:NAME or torchvision:NAME of an image classifier; or a folder. "
    "See: grpo-tta models."
)
_RAY = "Ray"
Model = Annotated[str, typer.Option(help=_MODEL)]
BenchModel = Annotated[str, typer.Option(help=f"{_MODEL} Default: nano-clip; photo-clip for --suite photos.")]
ClassNames = Annotated[
    Path | None,
    typer.Option(help="Classes of an image classifier in the order of its logits: one per line, or a .json of label and name."),
]
Precision = Annotated[
    str,
    typer.Option(
        help="float32, bfloat16, or auto (bfloat16 where the processor multiplies it faster), of the frozen visual encoder. "
        "bfloat16 may change answers that are nearly tied."
    ),
]
Device = Annotated[str, typer.Option(help="auto (a CUDA device where there is one, else the CPU), cpu, cuda, cuda:1, …")]
Threads = Annotated[int | None, typer.Option(help="CPU threads of the model. Default: as many as torch takes.")]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="Checkpoint (.pt, .pth, .bin, .safetensors) for the architecture that --model names (ViT-B-16, timm:resnet50)."
    ),
]
Download = Annotated[bool, typer.Option("--download", help="Allow weights and benchmarks to be fetched. Never done unasked.")]
Seed = Annotated[int, typer.Option(help="Of crops, content-free views and sampled groups.")]
Preset = Annotated[str, typer.Option(help="default, fast or paper.")]
Templates = Annotated[list[str] | None, typer.Option(help="Prompt with {} for the label. May be repeated.")]
Batch = Annotated[int, typer.Option(help="Images adapted in one pass.")]
AutoBatch = Annotated[
    str, typer.Option(help="Images adapted in one pass. auto: as many as help, if the device has the memory for them.")
]
Part = Annotated[int, typer.Option(help="Images per file of records. A killed run repeats at most this many.")]
Assignments = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Change a setting, for example group=Nucleus(mass=0.9), steps.count=3 or reward=FILE.py:NAME. May be repeated.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Where a command runs; all but `engine` matter with Ray only."""

    engine: Annotated[
        str,
        typer.Option(
            help="local, or ray for any number of machines. Ray needs the extra `ray`; see docs/scaling.md.",
            rich_help_panel=_RAY,
        ),
    ] = "local"
    actors: Annotated[int, typer.Option(help="Processes that hold the model.", rich_help_panel=_RAY)] = 2
    actor_cpus: Annotated[float, typer.Option(help="CPUs of each process, and its threads.", rich_help_panel=_RAY)] = 1.0
    actor_gpus: Annotated[float, typer.Option(help="GPUs of each process. 0.5 puts two on one GPU.", rich_help_panel=_RAY)] = (
        0.0
    )
    actor_memory: Annotated[
        float | None, typer.Option(help="GB that each process may take while it adapts.", rich_help_panel=_RAY)
    ] = None
    ray_address: Annotated[
        str | None,
        typer.Option(help="A running cluster. Default: RAY_ADDRESS, or else Ray is started here.", rich_help_panel=_RAY),
    ] = None


def ray_settings(options: RayOptions, chunk: int) -> RaySettings | None:
    """What the options say of Ray; None where the command runs on this machine without it.

    Args:
        options: of the command.
        chunk: images per file of rows.

    Raises:
        UserError: an unknown engine, impossible numbers, or Ray is not installed.
    """
    if options.engine not in ("local", "ray"):
        raise UserError(f"Unknown engine {options.engine!r}; choose local or ray.")
    if options.engine == "local":
        return None
    try:
        import ray  # noqa: F401
    except ImportError:
        raise UserError("--engine ray needs Ray; install it with: python -m pip install 'grpo-tta[ray]'.") from None
    from grpo_tta.cluster.settings import RaySettings

    return RaySettings(options.actors, options.actor_cpus, options.actor_gpus, options.actor_memory, chunk, options.ray_address)


def precision_of(dtype: str, device: str, note: Callable[[str], None]) -> Dtype:
    """The precision that was asked for.

    Args:
        note: is given a sentence that says what `auto` stands for, and why.

    Raises:
        UserError: unknown, or a device that is not there.
    """
    from grpo_tta.backbones.base import check_device, check_dtype
    from grpo_tta.backbones.hardware import choose_dtype

    if check_dtype(dtype) != "auto":
        return check_dtype(dtype)
    chosen, why = choose_dtype(check_device(device))
    note(f"--dtype auto: {chosen}, since {why}.")
    return chosen


def settings_of(preset: str, assignments: Sequence[str]) -> GRPOSettings:
    """A preset, changed by what `--set` assigns.

    Raises:
        UserError: an unknown preset or setting, or a value that cannot be read or does not fit.
    """
    from grpo_tta.method.settings import PRESETS

    if preset not in PRESETS:
        raise UserError(f"Unknown preset {preset!r}; choose {' or '.join(PRESETS)}.")
    settings = PRESETS[preset]
    if not assignments:
        return settings
    from grpo_tta.method.parse import change_settings

    return change_settings(settings, assignments)


def class_names_of(file: Path | None) -> dict[str, str] | None:
    """Label -> name of an image classifier's classes, as `--class-names` gives them.

    Raises:
        UserError: the file is missing or not readable.
    """
    if file is None:
        return None
    from grpo_tta.data.labels import read_labels

    return read_labels(file)


def read_batch(text: str) -> int | Literal["auto"]:
    """`--batch` of a command that can choose it.

    Raises:
        UserError: neither `auto` nor a whole number from 1 on.
    """
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--batch is auto or a whole number from 1 on, not {text!r}.")
    return int(text)


def number_of_batch(text: str) -> int:
    """`--batch` where Ray decides which processes share a device.

    Raises:
        UserError: as `read_batch`, or `auto`.
    """
    batch = read_batch(text)
    if batch == "auto":
        raise UserError("Processes of Ray may share a device and its memory; with --engine ray give --batch a number.")
    return batch


def split_list(text: str) -> list[str]:
    """What stands between commas, without blanks around it."""
    return [part.strip() for part in text.split(",")]


def read_seeds(text: str) -> list[int]:
    """Comma-separated seeds.

    Raises:
        UserError: one of them is no whole number.
    """
    parts = split_list(text)
    if bad := [part for part in parts if not part.isdecimal()]:
        raise UserError(f"Seed {bad[0]!r} is no whole number; write them with commas between, for example 0,1,2.")
    return [int(part) for part in parts]


def say(text: str) -> None:
    """A line on standard error. Other than click's own, it keeps to the terminal's encoding where that is ASCII."""
    typer.echo(as_text(text), file=sys.stderr)


def say_of_nano_clip(model: str) -> None:
    """Says on standard error what the shipped default model is no good for; silent for other models."""
    if model == "nano-clip":
        say("nano-clip knows drawings alone: for photographs name another --model (photo-clip, ViT-B-16/openai, ...).")


def make_console(*, stderr: bool = False) -> Console:
    """As wide as the terminal, or 150 columns where the output goes to a file."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(width=None if stream.isatty() else 150, stderr=stderr)
