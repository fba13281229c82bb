"""What `grpo-tta predict` costs beside its answers: peak memory at few and at many images, images per second, bytes per row.

One small image stands in a folder under many names. The command runs on it in a process of its own, once per number of
images, and the process's peak memory is taken from the operating system.

    python perf/predict.py --few 1000 --many 20000 --json build/predict.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from grpo_tta.data import nano

MAX_RATIO = 1.1
"""Peak memory at many images over that at few."""


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--few", type=int, default=1_000)
    parser.add_argument("--many", type=int, default=20_000)
    parser.add_argument("--labels", type=int, default=10)
    parser.add_argument("--outputs", default="csv,out", help="of csv, jsonl and out")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        names = Path(work) / "labels.txt"
        names.write_text("\n".join(labels(arguments.labels)))
        words = ["--labels-file", str(names), "--preset", arguments.preset]
        outputs = arguments.outputs.split(",")
        found = [compare(arguments.few, arguments.many, words, output, Path(work)) for output in outputs]
    print(f"{'output':8}{'images':>10}{'peak MB':>10}{'ratio':>8}{'per second':>12}{'bytes/row':>11}")
    for row in found:
        for name in ("few", "many"):
            ratio, rate = (f"{row['memory_ratio']:.3f}", f"{row['per_second']:.1f}") if name == "many" else ("", "")
            one = row[name]
            print(
                f"{row['output']:8}{one['images']:>10,}{one['peak_mb']:>10.0f}{ratio:>8}{rate:>12}{one['bytes_per_row']:>11.0f}"
            )
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if all(row["memory_ratio"] <= MAX_RATIO for row in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
