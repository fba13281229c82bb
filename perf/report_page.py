"""How large the page of a report is, and how long it takes to write and to open.

    python perf/report_page.py --rows 5000 --json build/report_page.json  # needs Chromium

The run is synthetic: rows of ten methods on noisy photographs of one's own, which JPEG compresses worst. So a page of real
photographs is smaller. Prints one JSON document. `write_seconds` is `grpo-tta report` without the start of Python, and
`open_milliseconds` the browser's own time from the request to the event `load`, the median of `--repeats`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from grpo_tta.bench.records import FORMAT, Record, part_path, write_json, write_part
from grpo_tta.bench.runs import images_hash
from grpo_tta.config.serialise import to_plain
from grpo_tta.data.custom import custom_task
from grpo_tta.images.views import ViewSettings
from grpo_tta.report.html import write_report

METHODS = ("zero-shot", "grpo-tta", "view-mean", "reward-argmax", "grpo-tta-fast", "zero", "vte", "mta", "tpt", "sts")
CLASSES, GROUP, PHOTOGRAPHS = 40, 5, 16
SIZE = (480, 360)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
TIMED = """<script>window.addEventListener('load', () => {
  const out = document.createElement('pre');
  out.id = 'took';
  out.textContent = performance.now();
  document.body.appendChild(out);
});</script>"""


def write_photographs(folder: Path, count: int) -> None:
    """A folder for each class; `PHOTOGRAPHS` different images under `count` names."""
    draw = np.random.default_rng(0)
    noise = [Image.fromarray(draw.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)) for _ in range(PHOTOGRAPHS)]
    first: list[Path] = []
    for number in range(count):
        path = folder / f"class {number % CLASSES:02d}" / f"photograph-{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < PHOTOGRAPHS:
            noise[number].save(path, quality=80)
            first.append(path)
        else:
            shutil.copyfile(first[number % PHOTOGRAPHS], path)


def write_run(folder: Path, rows: int) -> Path:
    """A run of so many rows on own images below `folder`, as the runner leaves it. Two answers in three are right."""
    write_photographs(folder / "photographs", rows // len(METHODS))
    task = custom_task(folder / "photographs", template="a photo of a {}.")
    labels = [next(n for n, name in enumerate(task.classes) if Path(i).parent.name == name) for i in task.image_ids]
    draw, C = np.random.default_rng(1), len(task.classes)
    records = []
    for method in METHODS:
        right = draw.random((2, len(labels))) < 2 / 3
        confidence = draw.uniform(0.3, 1, (2, len(labels)))
        for place, (image_id, label) in enumerate(zip(task.image_ids, labels, strict=True)):
            other = (label + 1 + place % (C - 1)) % C
            episode: dict[str, Any] = {}
            if method.startswith("grpo-tta"):
                rewards = sorted(draw.normal(size=GROUP).tolist(), reverse=True)
                advantages = (np.array(rewards) - np.mean(rewards)).tolist()
                classes = [(label + k) % C for k in range(GROUP)]
                episode = {"group": classes, "rewards": rewards, "advantages": advantages, "updated": True}
            records.append(
                Record(
                    task=task.name, kind=task.kind, image_id=image_id, order=place, label=label, method=method,
                    protocol="episodic", reward="own", seed=0, settings_hash="synthetic", versions="synthetic",
                    prediction_before=label if right[0, place] else other, prediction=label if right[1, place] else other,
                    confidence_before=confidence[0, place], confidence=confidence[1, place], forwards=24.0, backwards=0.0,
                    **episode,
                )
            )  # fmt: skip
    run = folder / "run"
    write_part(part_path(run, task.name, 0), records)
    methods = {name: {"protocol": "episodic", "reward": "own", "settings": None} for name in METHODS}
    about = {"format": FORMAT, "model": "photo-clip", "fingerprint": "synthetic", "seed": 0, "views": to_plain(ViewSettings())}
    of_task = {"tasks": len(labels), "sources": dict(task.source), "images": images_hash(task), "classes": list(task.classes)}
    of_task["templates"] = list(task.templates)
    info = about | {key: {task.name: value} for key, value in of_task.items()} | {"methods": methods, "cost": {}}
    write_json(run / "run.json", info)
    return run


def opening(page: Path, repeats: int) -> float | None:
    """Milliseconds until a page is loaded, the median; None where no browser is found (`CHROMIUM` names one)."""
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return None
    timed = page.with_name("timed.html")
    timed.write_text(page.read_text().replace("</body>", TIMED + "</body>"))
    took = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as profile:
            flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}"]
            command = [browser, *flags, "--dump-dom", timed.as_uri()]
            done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        found = re.search(r'<pre id="took">([\d.]+)</pre>', done.stdout)
        assert found, "the page was not loaded"
        took.append(float(found[1]))
    return statistics.median(took)


def measure(folder: Path, rows: int, repeats: int) -> dict[str, Any]:
    run = write_run(folder, rows)
    start = time.perf_counter()
    page = write_report([run], folder / "report", console=Console(quiet=True))
    seconds = time.perf_counter() - start
    size = page.stat().st_size / 1e6
    return {"rows": rows, "megabytes": size, "write_seconds": seconds, "open_milliseconds": opening(page, repeats)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.rows, options.repeats)
    if options.json:
        write_json(options.json, found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
