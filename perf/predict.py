"""What `grpo-tta predict` costs beside its answers.

    python perf/predict.py --few 1000 --many 20000 --json build/predict.json
    python perf/predict.py --parts photograph,beside,rows --json build/photographs.json
    python perf/predict.py --parts beside --dtype bfloat16

- `memory`: peak memory at few and at many images, images per second, bytes per row. One small image stands in a folder under
  many names. The command runs on it in a process of its own, whose peak memory is taken from the operating system.
- `photograph`: CPU-seconds and memory of one JPEG of 12 megapixels for everything but the model: reading, decoding, ViT-B/16's
  preprocessing, the default's 24 views and 4 content-free ones. Memory is that of eight of them at once, with all their
  views, divided by eight. Seconds are those of all threads, so that a busy machine adds little.
- `beside`: `predict_iter` on JPEGs of 12 megapixels, beside the forward passes alone of as many views (ViT-B/16 with random
  weights, preset `fast`, the same batches). Both parts run in one process, one after the other, in rounds.
- `rows`: the writer of `--out`, fed with rows of 1,000 random probabilities each. No model runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image

from grpo_tta import GRPOTTA, ViewSettings
from grpo_tta.backbones.open_clip import OpenClipBackbone
from grpo_tta.bench.timing import peak_memory_mb, reset_peak
from grpo_tta.classifier import Prediction
from grpo_tta.cli.predictions import FolderOutput, Wanted
from grpo_tta.data import nano
from grpo_tta.engine.encode import encode_views
from grpo_tta.images.inputs import decode_image
from grpo_tta.images.views import ImageViews
from grpo_tta.method.settings import PRESETS

MAX_RATIO = 1.1
"""Peak memory at many images over that at few."""
MAX_CPU_SECONDS, MAX_MB = 0.35, 60.0
"""Of a photograph, for everything but the model."""
MAX_BESIDE = 1.15
"""Seconds of `predict` over those of its forward passes alone."""
MAX_ROWS_MB, MAX_GROWTH_MB = 60.0, 20.0
"""Parquet of 50,000 rows at 1,000 labels, and how much memory grows behind the first tenth of them."""
CPU = torch.device("cpu")
PHOTOGRAPH = (4000, 3000)
IN_FLIGHT = 8


def write_folder(folder: Path, count: int) -> None:
    """The same image under `count` names."""
    folder.mkdir(parents=True)
    first = folder / "000000.png"
    Image.fromarray(nano.item("fog", "tuning", 0).image).save(first)
    for number in range(1, count):
        (folder / f"{number:06d}.png").hardlink_to(first)


def labels(count: int) -> list[str]:
    return ["star", "heart", "arrow", *(f"thing number {number}" for number in range(count))][:count]


def measure(folder: Path, words: list[str], results: Path) -> dict[str, Any]:
    """Runs the command; seconds and memory of its whole process, start-up included."""
    command = [sys.executable, "-m", "grpo_tta", "predict", str(folder), "--quiet", *words]
    began = time.perf_counter()
    with results.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"The command ended with status {process.returncode}: {' '.join(command)}")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return {"seconds": time.perf_counter() - began, "peak_mb": used.ru_maxrss * unit / 1e6}


def compare(few: int, many: int, words: list[str], output: str, work: Path) -> dict[str, Any]:
    """Both numbers of images, side by side.

    Args:
        output: `csv`, `jsonl` or `out`.
    """
    found: dict[str, Any] = {"output": output}
    for name, count in (("few", few), ("many", many)):
        folder, answers = work / f"{output}-{name}", work / f"{output}-{name}-answers"
        write_folder(folder, count)
        own = ["--out", str(answers)] if output == "out" else [f"--{output}"]
        results = work / f"{output}-{name}.txt"
        found[name] = {"images": count, **measure(folder, [*words, *own], results)}
        size = sum(part.stat().st_size for part in answers.rglob("*.parquet")) if output == "out" else results.stat().st_size
        found[name]["bytes_per_row"] = size / count
    found["memory_ratio"] = found["many"]["peak_mb"] / found["few"]["peak_mb"]
    # start-up is in both, and so it leaves the difference
    seconds = found["many"]["seconds"] - found["few"]["seconds"]
    found["per_second"] = (many - few) / seconds if seconds > 0 else float("nan")
    return found


def write_photograph(path: Path, number: int) -> None:
    """Structure at many scales, and a sensor's noise: some four megabytes."""
    rng = np.random.default_rng(number)
    made = np.zeros((PHOTOGRAPH[1], PHOTOGRAPH[0], 3), np.float32)
    for side in (4, 16, 64, 256, 1024):
        coarse = Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))
        made += np.asarray(coarse.resize(PHOTOGRAPH, Image.Resampling.BICUBIC), np.float32) / side**0.5
    made = made / made.max() * 255 + rng.normal(0, 3, made.shape).astype(np.float32)
    Image.fromarray(made.clip(0, 255).astype(np.uint8)).save(path, "JPEG", quality=92)


def cost_of_photograph(work: Path, repeats: int, settings: ViewSettings) -> dict[str, Any]:
    """Everything but the model, for an input of 224 pixels."""
    path = work / "photograph.jpg"
    write_photograph(path, 0)
    preprocess = open_clip.image_transform(224, is_train=False)
    zero, one = torch.zeros(3), torch.ones(3)

    def prepare() -> ImageViews:
        decoded = decode_image(path, settings.least_side(224))
        return ImageViews(decoded.image, preprocess(decoded.image), decoded.key, 0, settings, zero, one)

    def views() -> tuple[ImageViews, torch.Tensor, torch.Tensor]:
        made = prepare()
        return made, made.views(range(settings.views)), made.content_free()

    seconds = []
    views()  # what is loaded once is not a photograph's
    for _ in range(repeats):
        began = time.process_time()
        views()
        seconds.append(time.process_time() - began)
    reset_peak(CPU)
    before = peak_memory_mb(CPU)
    held = [views() for _ in range(IN_FLIGHT)]
    return {
        "megabytes": path.stat().st_size / 1e6,
        "cpu_seconds": median(seconds),
        "mb_in_flight": (peak_memory_mb(CPU) - before) / len(held),
    }


def random_classifier(dtype: str, preset: str, batch: int) -> GRPOTTA:
    """ViT-B/16 with random weights."""
    torch.manual_seed(0)
    network, _, preprocess = open_clip.create_model_and_transforms("ViT-B-16", pretrained=None)
    network.visual.to(torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    backbone = OpenClipBackbone("ViT-B-16", network, preprocess, open_clip.get_tokenizer("ViT-B-16"))
    settings = PRESETS[preset]
    if settings.early_exit is not None:  # random weights would need all views, trained ones need seven on average
        settings = replace(settings, views=replace(settings.views, views=7), early_exit=None)
    return GRPOTTA(backbone, labels(20), settings=settings, batch=batch, cache=False)


def beside(work: Path, count: int, rounds: int, dtype: str, batch: int) -> dict[str, Any]:
    """`predict_iter` on photographs, and the forward passes alone."""
    paths = [work / f"{number:04d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        if number < 8:
            write_photograph(path, number)
        else:
            path.hardlink_to(paths[number % 8])
    classifier = random_classifier(dtype, "fast", batch)
    answers = classifier.predict(paths[:batch])  # warms up, and says how many views an image needs
    passes = round(sum(answer.forwards for answer in answers) / batch)
    size = classifier.backbone.image_size
    pixels = torch.randn(batch, passes, 3, size, size)

    def forward_alone() -> None:
        for first in range(0, count, batch):
            some = pixels[: min(batch, count - first)]
            encode_views(classifier.policy, some, some[:, :0])

    forward_alone()
    measured: dict[str, list[float]] = {"predict": [], "predict_cpu": [], "forward": [], "forward_cpu": []}
    for _ in range(rounds):
        for name, call in (("predict", lambda: list(classifier.predict_iter(paths))), ("forward", forward_alone)):
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            measured[name].append(time.perf_counter() - wall)
            measured[f"{name}_cpu"].append(time.process_time() - cpu)
    found: dict[str, Any] = {"dtype": dtype, "photographs": count, "passes": passes, "threads": torch.get_num_threads()}
    found |= {f"{name}_seconds": median(values) / count for name, values in measured.items()}
    found["ratio"] = median(a / b for a, b in zip(measured["predict"], measured["forward"], strict=True))
    found["cpu_ratio"] = median(a / b for a, b in zip(measured["predict_cpu"], measured["forward_cpu"], strict=True))
    return found


def write_rows(work: Path, count: int, classes: int) -> dict[str, Any]:
    """The writer of `--out`, as the command uses it: default rows of the top 5, 128 to a part."""
    names = labels(classes)
    rng = np.random.default_rng(0)
    wanted = Wanted()
    output = FolderOutput(work / "rows", {"all_probabilities": False}, 128)
    begun_mb = 0.0
    for number in range(count):
        if number == count // 10:
            reset_peak(CPU)
            begun_mb = peak_memory_mb(CPU)
        answer = random_answer(rng, names)
        path = Path(f"photographs/{number // 1000:04d}/IMG_{number:06d}.jpg")
        output.write(path, answer, wanted.row(str(path), answer))
    output.close()
    size = sum(part.stat().st_size for part in (work / "rows").rglob("*.parquet"))
    return {"rows": count, "labels": classes, "megabytes": size / 1e6, "growth_mb": peak_memory_mb(CPU) - begun_mb}


def random_answer(rng: np.random.Generator, names: Sequence[str]) -> Prediction:
    before, after = rng.dirichlet(np.full(len(names), 0.05), size=2).tolist()
    best_before, best = int(np.argmax(before)), int(np.argmax(after))
    named = (dict(zip(names, values, strict=True)) for values in (after, before))
    return Prediction(names[best], after[best], next(named), names[best_before], next(named), 7.0, 0.0)


def memory_part(given: argparse.Namespace, work: Path) -> tuple[list[dict[str, Any]], bool]:
    names = work / "labels.txt"
    names.write_text("\n".join(labels(given.labels)))
    words = ["--labels-file", str(names), "--preset", given.preset]
    found = [compare(given.few, given.many, words, output, work) for output in given.outputs.split(",")]
    print(f"{'output':8}{'images':>10}{'peak MB':>10}{'ratio':>8}{'per second':>12}{'bytes/row':>11}")
    for row in found:
        for name in ("few", "many"):
            ratio, rate = (f"{row['memory_ratio']:.3f}", f"{row['per_second']:.1f}") if name == "many" else ("", "")
            one = row[name]
            print(
                f"{row['output']:8}{one['images']:>10,}{one['peak_mb']:>10.0f}{ratio:>8}{rate:>12}{one['bytes_per_row']:>11.0f}"
            )
    return found, all(row["memory_ratio"] <= MAX_RATIO for row in found)


def photograph_part(given: argparse.Namespace, work: Path) -> tuple[dict[str, Any], bool]:
    found = cost_of_photograph(work, given.repeats, ViewSettings())
    print(
        f"a JPEG of 12 megapixels ({found['megabytes']:.1f} MB): {found['cpu_seconds']:.3f} CPU-seconds (at most "
        f"{MAX_CPU_SECONDS}), {found['mb_in_flight']:.0f} MB in flight (at most {MAX_MB:.0f})"
    )
    return found, found["cpu_seconds"] <= MAX_CPU_SECONDS and found["mb_in_flight"] <= MAX_MB


def beside_part(given: argparse.Namespace, work: Path) -> tuple[dict[str, Any], bool]:
    found = beside(work, given.photographs, given.rounds, given.dtype, given.batch)
    print(
        f"{found['photographs']} photographs, {found['passes']} passes each, {given.dtype}: {found['predict_seconds']:.3f} s "
        f"each, the passes alone {found['forward_seconds']:.3f} s, ratio {found['ratio']:.3f}; CPU-seconds "
        f"{found['predict_cpu_seconds']:.3f} and {found['forward_cpu_seconds']:.3f}, ratio {found['cpu_ratio']:.3f}"
    )
    return found, given.dtype != "float32" or found["ratio"] <= MAX_BESIDE


def rows_part(given: argparse.Namespace, work: Path) -> tuple[dict[str, Any], bool]:
    found = write_rows(work, given.rows, 1_000)
    most = MAX_ROWS_MB * given.rows / 50_000
    print(
        f"{found['rows']:,} rows at 1,000 labels: {found['megabytes']:.1f} MB of Parquet (at most {most:.1f}), memory grows by "
        f"{found['growth_mb']:.1f} MB behind the first tenth (at most {MAX_GROWTH_MB:.0f})"
    )
    return found, found["megabytes"] <= most and found["growth_mb"] <= MAX_GROWTH_MB


PARTS = {"memory": memory_part, "photograph": photograph_part, "beside": beside_part, "rows": rows_part}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="memory", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--few", type=int, default=1_000)
    parser.add_argument("--many", type=int, default=20_000)
    parser.add_argument("--labels", type=int, default=10)
    parser.add_argument("--outputs", default="csv,out", help="of csv, jsonl and out")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--photographs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: dict[str, Any] = {}
    within = True
    for part in given.parts.split(","):
        with tempfile.TemporaryDirectory() as work:
            found[part], kept = PARTS[part](given, Path(work))
            within = within and kept
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if within else 1


if __name__ == "__main__":
    raise SystemExit(main())
