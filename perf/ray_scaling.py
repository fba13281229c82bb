"""What Ray costs: actors against plain processes, the phases of one image, and the driver's memory.

    python perf/ray_scaling.py throughput --out build/ray   # about 5 minutes on 2 quiet cores
    python perf/ray_scaling.py phases                       # about 1 minute
    python perf/ray_scaling.py memory --rows 1000 --out build/ray-memory   # then 10000 and 100000, a process each

Every process runs one thread. Each command prints one JSON document; docs/scaling.md explains what is made of them.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from grpo_tta.backbones.base import load_backbone
from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.baselines.registry import choose_methods
from grpo_tta.bench.records import SCHEMA, read_records, write_part
from grpo_tta.bench.runner import run_chunk
from grpo_tta.bench.runs import RunSettings
from grpo_tta.cluster.jobs import ModelName
from grpo_tta.cluster.ray_data import bench_on_ray
from grpo_tta.cluster.session import session
from grpo_tta.cluster.settings import RaySettings
from grpo_tta.cluster.sources import TaskSource, manifest_source
from grpo_tta.data.tasks import nano_tasks
from grpo_tta.engine.encode import encode_views, prepare_images
from grpo_tta.engine.interface import ImageBatch, Method
from grpo_tta.engine.policy import Policy
from grpo_tta.images.read import to_rgb

BATCH = 16


def noted(method: Method, log: Path) -> Method:
    """The method, with a line in `log` for every batch: process, when it ended, images, processor seconds so far."""
    inner = method.run

    def run(policy, batch, state):  # type: ignore[no-untyped-def]
        found = inner(policy, batch, state)
        with log.open("a") as file:
            file.write(f"{os.getpid()} {time.time()} {len(batch.image_ids)} {time.process_time()}\n")
        return found

    return replace(method, run=run)


def rate(log: Path, finished: float) -> tuple[float, float]:
    """Images per second, from when every process has its first batch behind it until the last row is on disk. Also processor
    milliseconds per image of the processes that adapt, which other jobs of the machine do not lengthen much."""
    lines = [line.split() for line in log.read_text().splitlines()]
    by_process: dict[str, list[tuple[float, int, float]]] = {}
    for pid, ended, images, used in lines:
        by_process.setdefault(pid, []).append((float(ended), int(images), float(used)))
    start = max(batches[0][0] for batches in by_process.values())
    found = sum(images for batches in by_process.values() for ended, images, _ in batches if ended > start)
    used = sum(batches[-1][2] - batches[0][2] for batches in by_process.values())
    after_first = sum(images for batches in by_process.values() for _, images, _ in batches[1:])
    return found / (finished - start), 1000 * used / after_first


def plain_process(index: int, count: int, limit: int, chunk: int, out: Path, barrier: Any) -> None:
    torch.set_num_threads(1)
    (task,) = nano_tasks(["fog"], "reporting", limit)
    backbone = load_backbone("nano-clip")
    policy = Policy(backbone, make_prompts(backbone, task.classes, (task.template,), task.ensemble))
    methods = [noted(choose_methods(["grpo-tta"])[0], out / "log")]
    settings = RunSettings(batch=BATCH, chunk=chunk)
    barrier.wait()
    for number, first in enumerate(range(0, limit, chunk)):
        if number % count == index:
            numbers = range(first, min(first + chunk, limit))
            write_part(
                out / "records" / f"{number}.parquet",
                run_chunk(policy, task, numbers, numbers, methods, {"grpo-tta": {}}, settings),
            )


def plain(processes: int, limit: int, chunk: int, out: Path) -> tuple[float, float]:
    out.mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    started = [context.Process(target=plain_process, args=(i, processes, limit, chunk, out, barrier)) for i in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join()
        assert process.exitcode == 0
    return rate(out / "log", max(path.stat().st_mtime for path in (out / "records").iterdir()))


def on_ray(actors: int, limit: int, chunk: int, out: Path) -> tuple[float, float]:
    return run_on_ray(ModelName("nano-clip"), limit, BATCH, RaySettings(actors, chunk=chunk), out)


def run_on_ray(model: ModelName, limit: int, batch: int, settings: RaySettings, out: Path) -> tuple[float, float]:
    out.mkdir(parents=True)
    source = TaskSource(tuple(nano_tasks(["fog"], "reporting", limit)))
    methods = [noted(choose_methods(["grpo-tta"])[0], out / "log")]
    bench_on_ray(model, source, methods, str(out), RunSettings(batch=batch), settings)
    return rate(out / "log", max(path.stat().st_mtime for path in (out / "checkpoint").iterdir()))


def replicas(model: ModelName, limit: int, batch: int, out: Path, *, cpus: float, gpus: float) -> dict[str, Any]:
    """One actor that has all of a device against two that have a half of it each, in one session of Ray.

    Args:
        limit: images; the first batch of every actor is not counted.
        batch: images in flight and per chunk.
        cpus, gpus: of the one actor.

    Returns:
        Images per second of both, how many processes took part, and whether the answers are the same to 1e-3.
    """
    both = {count: RaySettings(count, cpus / count, gpus / count, chunk=batch, object_store_mb=200) for count in (1, 2)}
    shutil.rmtree(out, ignore_errors=True)
    found: dict[str, Any] = {"cpus": cpus, "gpus": gpus, "images": limit, "in_flight": batch}
    answers = []
    with session(both[1]):
        for count, settings in both.items():
            folder = out / str(count)
            found[f"x{count}_images_per_second"], _ = run_on_ray(model, limit, batch, settings, folder)
            found[f"x{count}_processes"] = len({line.split()[0] for line in (folder / "log").read_text().splitlines()})
            answers.append(read_records([folder]).sort_values("image_id")["confidence"].to_numpy())
    found["same_answers"] = bool(len(answers[0]) == limit and abs(answers[0] - answers[1]).max() <= 1e-3)
    return found


def throughput(arguments: argparse.Namespace) -> dict[str, Any]:
    """Plain processes and actors by turns, so that what else the machine does meets both."""
    speed: dict[str, list[float]] = {}
    used: dict[str, list[float]] = {}
    with session(RaySettings(actors=2, object_store_mb=200)):
        for repeat in range(arguments.repeats):
            for kind, call in (("plain", plain), ("ray", on_ray)):
                for workers in arguments.workers:
                    for chunk in arguments.chunks:
                        name = f"x{workers} chunk {chunk}"
                        out = arguments.out / f"{kind}-{workers}-{chunk}-{repeat}"
                        shutil.rmtree(out, ignore_errors=True)
                        per_second, milliseconds = call(workers, arguments.limit * workers // 2, chunk, out)
                        speed.setdefault(f"{kind} {name}", []).append(per_second)
                        used.setdefault(f"{kind} {name}", []).append(milliseconds)
                        print(kind, name, f"{per_second:.2f}/s {milliseconds:.1f} ms", "load", os.getloadavg()[0], flush=True)
    names = [f"x{workers} chunk {chunk}" for workers in arguments.workers for chunk in arguments.chunks]
    ratios = {name: [b / a for a, b in zip(speed[f"plain {name}"], speed[f"ray {name}"], strict=True)] for name in names}
    return {
        "images_per_second": speed,
        "processor_ms_per_image": used,
        "ray_over_plain": {name: {"runs": found, "median": statistics.median(found)} for name, found in ratios.items()},
    }


def timed(seconds: dict[str, float], name: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Adds processor seconds, which other processes of a busy machine do not lengthen."""
    started = time.process_time()
    found = call(*arguments)
    seconds[name] = seconds.get(name, 0.0) + time.process_time() - started
    return found


def decode(files: list[bytes]) -> list[Image.Image]:
    return [to_rgb(Image.open(io.BytesIO(content))) for content in files]


def phases(arguments: argparse.Namespace) -> dict[str, Any]:
    """Processor milliseconds per image in each phase of a chunk (one thread), and bytes per image in and out."""
    torch.set_num_threads(1)
    (task,) = nano_tasks(["fog"], "reporting", arguments.limit)
    files = []
    for number in range(arguments.limit):
        buffer = io.BytesIO()
        task.load(number)[0].save(buffer, "PNG")
        files.append(buffer.getvalue())
    started = time.process_time()
    backbone = load_backbone("nano-clip")
    policy = Policy(backbone, make_prompts(backbone, task.classes, (task.template,), task.ensemble))
    startup = time.process_time() - started
    (method,) = choose_methods(["grpo-tta"])
    settings = replace(RunSettings().views, views=method.views, content_free=method.content_free)
    cached_blocks = method.cached_blocks(backbone)
    seconds: dict[str, float] = {}

    def make_views(images: list[Image.Image], names: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        made = prepare_images(backbone, images, names, settings, 0)
        return made.views(range(settings.views)), made.content_free()

    def one_pass(seconds: dict[str, float]) -> None:
        for first in range(0, arguments.limit, BATCH):
            names = tuple(task.image_ids[first : first + BATCH])
            images = timed(seconds, "decode", decode, files[first : first + BATCH])
            views, content_free = timed(seconds, "views", make_views, images, names)
            encoded = timed(seconds, "frozen pass", encode_views, policy, views, content_free, cached_blocks)
            timed(seconds, "policy steps", method, policy, ImageBatch(names, views, content_free, encoded, 0), {})

    one_pass({})
    one_pass(seconds)
    numbers = range(arguments.limit)
    given = replace(task, load=lambda number: (Image.open(io.BytesIO(files[number])), 0))
    began = time.process_time()
    rows = run_chunk(policy, given, numbers, numbers, [method], {method.name: {}}, RunSettings(batch=BATCH))
    whole = time.process_time() - began
    arguments.out.mkdir(parents=True, exist_ok=True)
    part = arguments.out / "part.parquet"
    timed(seconds, "write", write_part, part, rows)
    per_image = {name: 1000 * found / arguments.limit for name, found in seconds.items()}
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)
    return {
        "milliseconds": per_image,
        "sum": sum(per_image.values()),
        "run_chunk": 1000 * whole / arguments.limit,
        "model_startup_s": startup,
        "bytes_in": statistics.mean(map(len, files)),
        "bytes_row_in_memory": table.nbytes / len(rows),
        "bytes_row_on_disk": part.stat().st_size / len(rows),
    }


def tiny_rows(count: int) -> Iterator[pa.Table]:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (90, 60, 30)).save(buffer, "PNG")
    for first in range(0, count, 10_000):
        ids = [f"tiny/{number:09d}" for number in range(first, min(first + 10_000, count))]
        yield pa.table({"image_id": ids, "image": [buffer.getvalue()] * len(ids), "label": ["star", "heart"] * (len(ids) // 2)})


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Resident memory of the driver over a zero-shot run on tiny images."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    manifest = arguments.out / f"{arguments.rows}.parquet"
    with pq.ParquetWriter(manifest, next(tiny_rows(2)).schema) as writer:
        for rows in tiny_rows(arguments.rows):
            writer.write_table(rows)
    out = arguments.out / f"run-{arguments.rows}"
    shutil.rmtree(out, ignore_errors=True)
    done, samples = threading.Event(), []

    def sample() -> None:
        while not done.wait(0.5):
            samples.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6)

    watcher = threading.Thread(target=sample)
    watcher.start()
    began = time.perf_counter()
    source = manifest_source(str(manifest), str(out), "a photo of a {}.", None)
    settings = RaySettings(actors=2, chunk=arguments.chunks[0], object_store_mb=200)
    bench_on_ray(ModelName("nano-clip"), source, choose_methods(["zero-shot"]), str(out), RunSettings(batch=64), settings)
    done.set()
    watcher.join()
    seconds = time.perf_counter() - began
    return {"rows": arguments.rows, "seconds": seconds, "peak_mb": max(samples), "median_mb": statistics.median(samples)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("throughput", "phases", "memory"))
    parser.add_argument("--out", type=Path, default=Path("build/ray"))
    parser.add_argument("--limit", type=int, default=512, help="images of a run with two workers; half with one")
    parser.add_argument("--chunks", type=int, nargs="+", default=[64])
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1000)
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    os.environ.setdefault("RAY_worker_niceness", "0")  # else every other process comes before the actors
    torch.set_num_threads(1)
    arguments.out = arguments.out.absolute()
    found = {"throughput": throughput, "phases": phases, "memory": memory}[arguments.what](arguments)
    print(json.dumps(found | {"load": os.getloadavg()}, indent=2))


if __name__ == "__main__":
    main()
