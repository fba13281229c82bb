"""What the commands share: options with their help, lists on the command line, and the console. Imports nothing heavy."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

_MODEL = (
    "nano-clip or photo-clip (shipped), ARCHITECTURE/PRETRAINED of open_clip, hf-hub:ORG/NAME of its hub, ORG/NAME in "
    "transformers' format (CLIP, SigLIP), or a folder. See: grpo-tta models."
)
Model = Annotated[str, typer.Option(help=_MODEL)]
BenchModel = Annotated[str, typer.Option(help=f"{_MODEL} Default: nano-clip; photo-clip for --suite photos.")]
Precision = Annotated[
    str, typer.Option(help="float32 or bfloat16, of the frozen visual encoder; answers that are nearly tied may change.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")]
Download = Annotated[bool, typer.Option("--download", help="Allow weights and benchmarks to be fetched; never done unasked.")]
Seed = Annotated[int, typer.Option(help="Of crops, copies and sampled groups.")]
Preset = Annotated[str, typer.Option(help="default (also called accurate), fast or paper.")]
Templates = Annotated[list[str] | None, typer.Option(help="Prompt with {} for the label; may be repeated.")]
Batch = Annotated[int, typer.Option(help="Images adapted in one pass.")]
Part = Annotated[int, typer.Option(help="Images of a part on disk: what a killed run does again at the most.")]


def split_list(text: str) -> list[str]:
    """What stands between commas, without blanks around it."""
    return [part.strip() for part in text.split(",")]


def make_console(*, stderr: bool = False) -> Console:
    """As wide as the terminal, or 150 columns where the output goes to a file."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(width=None if stream.isatty() else 150, stderr=stderr)
