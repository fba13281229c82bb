"""What it costs on what: images per second, memory and money per million images, for one model on one device.

    python perf/costs.py --price-per-hour 0.10 --json build/costs.json               # two CPU cores: 5 minutes when quiet
    python perf/costs.py --price-per-hour 1 --rows online --json build/costs-online.json        # one row, two models: a minute
    python perf/costs.py --price-per-hour 2.50 --device cuda --dtype bfloat16 --models ViT-B-16 --in-flight 32

Every row is measured from decoded images to the answer, in a process of its own: the median of calls after one that warms up.
Models are of true size with random weights (nano-clip: its own), classes are random unit vectors, images are low-pass noise of
500 x 375. Memory is the peak beyond the model: on a CPU of the process, on a GPU of what torch allocates.

- zero-shot: view 0 alone.
- view-mean: the mean of 24 views, without a step.
- fast: with seven views, as many as trained models need on average. Random weights would need all of them.
- default.
- online: `grpo-tta-online`, with a step for the images in flight; every call goes on with the stream of the one before.
- rlcf: RLCF's settings: 64 views, the best six, three steps on the whole encoder, and a second model of the same size as its
  reward. One image in flight, as its own code has it.

The price is that of the machine per hour, in any currency; the script knows none.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from gpu import SEVEN, draw_images, from_images, make_policy, names_of, precision, seconds, wait
from overhead import fresh_peak_mb, machine

from grpo_tta.backbones.allocator import keep_freed_memory
from grpo_tta.baselines.registry import known_methods
from grpo_tta.baselines.rlcf import RLCFSettings, rlcf
from grpo_tta.bench.records import write_json
from grpo_tta.bench.timing import peak_memory_mb, reset_peak
from grpo_tta.engine.encode import encode_for
from grpo_tta.engine.interface import Adaptation, ImageBatch, Method, State
from grpo_tta.engine.policy import Policy
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.grpo import grpo_method

ROWS = {
    "zero-shot": "zero-shot",
    "view-mean": "view-mean",
    "fast": "",
    "default": "grpo-tta",
    "online": "grpo-tta-online",
    "rlcf": "",
}
"""Row -> name of its method in the tables."""
SEED, MILLION = 0, 10**6


@final
@dataclass(frozen=True)
class Sizes:
    """
    Attributes:
        image: width and height of a drawn image.
        repeat: seconds; a call that is over sooner is timed again until they are spent.
    """

    image: tuple[int, int] = (500, 375)
    repeat: float = 2.0


SMOKE = Sizes((64, 48), 0.0)


def price_of_a_million(images_per_second: float, price_per_hour: float) -> float:
    """What a million images cost on a machine that is paid by the hour."""
    return price_per_hour * MILLION / images_per_second / 3600


def rlcf_with(teacher: Policy) -> Method:
    """RLCF's settings with a teacher that needs no text: its classes are random vectors, too."""
    settings = RLCFSettings(tuned="whole")

    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return rlcf(policy, batch, settings, teacher), state

    return Method("rlcf", "episodic", "teacher", settings.views, 0, settings, lambda backbone: (), run)


def method_of(row: str, model: str, device: torch.device, dtype: torch.dtype) -> Method:
    if row == "fast":
        return grpo_method(SEVEN)
    if row == "rlcf":
        return rlcf_with(make_policy(model, device, dtype))
    return known_methods()[ROWS[row]]


def measure_row(row: str, model: str, device: torch.device, kind: str, in_flight: int, sizes: Sizes) -> dict[str, Any]:
    """One row, in this process."""
    with precision(kind) as dtype:
        policy = make_policy(model, device, dtype)
        method = method_of(row, model, device, dtype)
        count = 1 if row == "rlcf" else in_flight
        images = draw_images(count, sizes.image)

        last: list[tuple[Adaptation, State]] = []

        def answer() -> None:
            views = ViewSettings(views=method.views, content_free=method.content_free)
            state = last.pop()[1] if last else {}  # a stream goes on
            last.append(method(policy, encode_for([method], policy, images, names_of(count), views, SEED), state))

        from_images(policy, known_methods()["zero-shot"], images[:1], ViewSettings(views=1, content_free=0))
        wait(device)
        base = fresh_peak_mb() if device.type == "cpu" else torch.cuda.memory_allocated(device) / 1e6
        reset_peak(device)
        taken = seconds(answer, device, sizes.repeat)
        forwards, backwards = last[0][0].cost.of(0)
        return {
            "images_per_second": count / taken,
            "in_flight": count,
            "peak_mb": peak_memory_mb(device) - base,
            "forwards": forwards,
            "backwards": backwards,
        }


def row_in_process(row: str, model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The same in a process of its own, so that its peak of memory is its own."""
    command = [sys.executable, __file__, "--row", row, "--models", model, "--device", arguments.device]
    command += ["--dtype", arguments.dtype, "--in-flight", str(arguments.in_flight)]
    command += ["--price-per-hour", "0", *(["--smoke"] if arguments.smoke else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def table(found: dict[str, dict[str, Any]], price: float, rows: Sequence[str] = tuple(ROWS)) -> list[str]:
    """The rows of one model as Markdown; what failed reads "not measured"."""
    lines = ["| | images per second | MB beyond the model | price of a million images |", "|---|---:|---:|---:|"]
    for row in rows:
        numbers = found.get(row, {})
        if "images_per_second" not in numbers:
            lines.append(f"| {row} | not measured | not measured | not measured |")
            continue
        rate = numbers["images_per_second"]
        lines.append(f"| {row} | {_short(rate)} | {numbers['peak_mb']:.0f} | {_short(price_of_a_million(rate, price))} |")
    return lines


def _short(value: float) -> str:
    """Two digits that count, and all before the point."""
    if value <= 0:
        return "0"
    return f"{value:,.{max(0, 1 - math.floor(math.log10(value)))}f}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--price-per-hour", type=float, required=True, help="of the machine")
    parser.add_argument("--models", default="ViT-B-16,nano-clip", help="separated by commas")
    parser.add_argument("--rows", default=",".join(ROWS), help="separated by commas")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", default="float32", help="of the frozen encoder: float32, bfloat16, float16 or tf32")
    parser.add_argument("--in-flight", type=int, default=2, help="images in one pass")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    parser.add_argument("--smoke", action="store_true", help="small images, each timed once")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    wanted = arguments.rows.split(",")
    if unknown := [row for row in wanted if row not in ROWS]:
        parser.error(f"no row is called {unknown[0]}; choose from {', '.join(ROWS)}")
    if arguments.in_flight < 1 or arguments.price_per_hour < 0:
        parser.error("--in-flight must be at least 1, and --price-per-hour no less than 0")
    if arguments.row:
        keep_freed_memory()  # as the commands do
        device, sizes = torch.device(arguments.device), SMOKE if arguments.smoke else Sizes()
        print(json.dumps(measure_row(arguments.row, arguments.models, device, arguments.dtype, arguments.in_flight, sizes)))
        return 0
    models: dict[str, Any] = {}
    for model in arguments.models.split(","):
        models[model] = {row: row_in_process(row, model, arguments) for row in wanted}
        lines = table(models[model], arguments.price_per_hour, wanted)
        print(f"{model}, {arguments.dtype}, {arguments.device}\n", *lines, sep="\n")
    about = {"price_per_hour": arguments.price_per_hour, "dtype": arguments.dtype, "device": arguments.device}
    if arguments.json:
        write_json(arguments.json, about | {"models": models, "machine": machine(), "load": os.getloadavg()})
    return 1 if any("error" in row for rows in models.values() for row in rows.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
