"""Every table that a command prints, at 80 columns as stored in `snapshots/`, and at 100 and 120 without a loss.

`python -m tests.cli.test_tables` writes the snapshots anew. Look at the difference before you keep it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console

from grpo_tta.backbones.catalogue import KnownModel
from grpo_tta.classifier import Prediction
from grpo_tta.cli import datasets, models, predictions
from grpo_tta.data.public.check import Check
from grpo_tta.report.grids import compact_grid, stream_grid
from grpo_tta.report.tables import MethodResult, Results
from grpo_tta.report.terminal import grid_table, points_table, print_comparisons, summary_table

SNAPSHOTS = Path(__file__).parent / "snapshots"
METHODS = ("zero-shot", "view-mean", "reward-argmax", "grpo-tta-paper", "grpo-tta")
TASKS = {"source": "source", "digits": "real", "combinations": "shifted", "impulse-noise": "shifted", "fog": "shifted"}


def demo(console: Console, patch: pytest.MonkeyPatch) -> None:
    def entry(place: int, task: int) -> dict[str, object]:
        accuracy = 0.4 + 0.02 * place + 0.1 * task
        return {"accuracy": accuracy, "ci95": [accuracy - 0.05, min(1.0, accuracy + 0.25)], "forwards": 24.0 * place + 1}

    tasks = [
        {"name": name, "kind": kind, "n": 1000, "methods": {m: entry(i, t) for i, m in enumerate(METHODS)}}
        for t, (name, kind) in enumerate(TASKS.items())
    ]
    means = {m: entry(i, 2) | {"tasks": 3} for i, m in enumerate(METHODS)}
    cost = {m: {"ms": 12.5 * i + 3, "peak_memory_mb": 1234.5} for i, m in enumerate(METHODS[:-1])}
    summary_table({"tasks": tasks, "methods": dict.fromkeys(METHODS), "shifted_mean": means}, cost).print(console)


def results() -> Results:
    own = "grpo-tta[group=Nucleus(mass=0.9),steps.count=3]"
    kinds = TASKS | {"drift": "stream", "one-class": "stream"}

    def result(place: int, name: str, protocol: str = "episodic") -> MethodResult:
        accuracy = {task: 40 + 2.5 * place + t for t, task in enumerate(kinds)}
        reward = "teacher" if name == "rlcf" else "alignment, content-free" if place else "none"
        figures = (
            55.5 + place,
            50.25 + place,
            60.75 + place,
            4,
            12000,
            1234.0 * place + 1,
            float(place),
            1234.56,
            12345.0,
            place,
        )
        return MethodResult(name, protocol, reward, accuracy, *figures, "ViT-L-14/openai" if name == "rlcf" else None)

    found = [result(i, name) for i, name in enumerate((*METHODS[:2], "grpo-tta", own, "rlcf"))]
    found.append(result(5, "grpo-tta-online", "online"))
    return Results({method.name: method for method in found}, kinds)


def bench(console: Console, patch: pytest.MonkeyPatch) -> None:
    """And `report`: they print the same tables."""
    found = results()
    grid_table(compact_grid(found, dict.fromkeys(found.methods, 12.34))).print(console)
    entropy = {(name, task): 0.87 for name in found.methods for task in found.tasks("stream")}
    grid_table(stream_grid(found, entropy)).print(console)
    row = {"method": "grpo-tta", "other": "view-mean", "difference": -0.53, "low": -1.2, "high": 0.14, "wins": 10, "losses": 21}
    print_comparisons(pd.DataFrame([row | {"p_value": 0.000071}]), console)


def sweep(console: Console, patch: pytest.MonkeyPatch) -> None:
    numbers = {"accuracy": 51.5, "difference": -1.25, "over_control": 0.5, "forwards": 1234.0, "milliseconds": 1234.5}
    sides = {f"{name}_{side}": -12.5 for name in ("difference", "over_control") for side in ("low", "high")}
    points = [
        {**numbers, **sides, "axis": axis, "value": value, "base": base, "surely": "worse", "errors": 0}
        for axis, value, base in (
            ("steps.count", "1", True), ("steps.count", "3", False), ("group", "Nucleus(mass=0.9, at_most=10)", False),
        )
    ]  # fmt: skip
    points[2] |= {"difference": np.nan, "errors": 12}
    points_table(pd.DataFrame(points), "mean over 18 shifted tasks").print(console)


def predict(console: Console, patch: pytest.MonkeyPatch) -> None:
    patched(patch, predictions, console)
    table = predictions.TableOutput("nano-clip")
    answers = [
        ("photos/2024/holiday in the mountains/IMG_20240811_143512.jpg", "container ship", "container ship, containership"),
        ("b.png", "star", "star"),
        ("c.png", "", "star"),
    ]
    for name, label, before in answers:
        row = {"image_id": name, "label": label, "probability": 1.0, "label_before": before, "probability_before": 0.1234}
        row |= {"abstained": not label, "forwards": 28.0, "backwards": 24.0}
        table.write(Path(name), Prediction(label, 1.0, {}, before, {}, 28.0, 24.0), row)
    table.close()


def models_(console: Console, patch: pytest.MonkeyPatch) -> None:
    patched(patch, models, console)
    both, weights = ("norm", "low-rank"), ("weights",)
    long = "convnext_base_w_320/laion_aesthetic_s13b_b82k_augreg"
    models._print(
        [
            KnownModel("nano-clip", "open_clip", "vit", both, "LayerNorm", ()),
            KnownModel(long, "open_clip", "convnext", both[:1], "LayerNorm", weights),
            KnownModel("openai/clip-vit-base-patch16", "transformers", "clip", both, "LayerNorm", (*weights, "tokenizer")),
            KnownModel("PE-Core-B-16/meta", "open_clip", "perception-encoder", both, "LayerNorm", weights),
        ]
    )


def datasets_(console: Console, patch: pytest.MonkeyPatch) -> None:
    datasets._print_known(datasets.known(), console)


def datasets_check(console: Console, patch: pytest.MonkeyPatch) -> None:
    check = Check(
        "imagenet-sketch", "/data/benchmarks/imagenet-sketch/sketch", "all images", 1000, 50889, 50887,
        ("the class folder n01440764 (tench) holds 49 images instead of 51",), ("ImageNet-Sketch.zip (https://x.org)",),
        ("imagenet-sketch/sketch/n01440764/",), "MIT", ("skipped 2 that are not read as images (2 .txt).",),
    )  # fmt: skip
    datasets._print_check(check, console)


def patched(patch: pytest.MonkeyPatch, module: ModuleType, console: Console) -> None:
    patch.setattr(module, "make_console", lambda: console)


TABLES: dict[str, Callable[[Console, pytest.MonkeyPatch], None]] = {
    "demo": demo,
    "bench": bench,
    "sweep": sweep,
    "predict": predict,
    "models": models_,
    "datasets": datasets_,
    "datasets-check": datasets_check,
}
"""All others print lines."""


def printed(name: str, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    with pytest.MonkeyPatch.context() as patch:
        TABLES[name](console, patch)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def numbers(text: str) -> set[str]:
    return set(re.findall(r"(?<=[ (])[+−]?\d[\d,.–]*†?(?=[ );])", " ".join(text.split())))


@pytest.mark.parametrize("name", TABLES)
def test_tables_at_80_columns(name: str) -> None:
    assert printed(name, 80) == (SNAPSHOTS / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("name", TABLES)
def test_no_table_loses_a_number(name: str, width: int) -> None:
    text, whole = printed(name, width), printed(name, 400)
    assert "…" not in text
    assert "Not shown" not in whole
    assert "continued" not in whole
    assert all(cell_len(line) <= width for line in text.splitlines())
    assert len(numbers(whole)) > 1
    assert numbers(whole) - numbers(text) == set()
    for line in (line for line in whole.splitlines() if line.startswith("┃")):
        for heading in (part.strip() for part in line.strip("┃").split("┃")):
            shown = " ".join(text.replace("┃", " ").split())
            assert all(word in shown for word in heading.split()), heading


def test_no_test_of_a_snapshot_is_missing() -> None:
    assert {path.stem for path in SNAPSHOTS.iterdir()} == set(TABLES)


if __name__ == "__main__":
    for each in TABLES:
        (SNAPSHOTS / f"{each}.txt").write_text(printed(each, 80), encoding="utf-8")
