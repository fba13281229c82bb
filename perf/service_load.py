"""Load test of the service: N clients for a while against `grpo-tta serve` on loopback, every answer compared.

Prints one JSON document: requests, wrong answers, errors, images per second offline (in batches, before and after) and served,
and their ratio. Also processor time per image on both sides, which other work on the machine disturbs less, and the server's
memory over time. The exit status is 1 where an answer was wrong or a request failed. So it is where the ratio is under 0.8, or
memory grew by more than a tenth from the first quarter to the last.

    python perf/service_load.py --clients 64 --seconds 60
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import httpx
from PIL import Image

from grpo_tta import GRPOTTA, Prediction
from grpo_tta.data import nano

LABELS = nano.TASKS["source"].classes
TOLERANCE = 1e-5  # probabilities; another batch size rounds differently


def offline_rate(classifier: GRPOTTA, files: list[bytes], seconds: float) -> tuple[float, float]:
    """Images per second of `predict`, decoding included, at the same batch size; and processor milliseconds per image."""
    began, worked, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        classifier.predict([Image.open(io.BytesIO(content)) for content in files])
        done += len(files)
    return done / (time.perf_counter() - began), 1000 * (time.process_time() - worked) / done


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024


def is_right(result: dict, expected: Prediction) -> bool:
    return all(abs(result["probabilities"][label] - p) < TOLERANCE for label, p in expected.probabilities.items())


async def load(
    address: str, files: list[bytes], expected: list[Prediction], clients: int, seconds: float, pid: int
) -> tuple[dict[str, int], list[float]]:
    counts = {"right": 0, "wrong": 0, "errors": 0}  # and each refusal by its code
    memory: list[float] = []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        async with httpx.AsyncClient(base_url=address, timeout=120) as http:
            turn = number
            while time.perf_counter() < end:
                index = turn % len(files)
                turn += 7  # every client has an order of its own
                response = await http.post("/v1/classify", files={"images": files[index]})
                if response.status_code != 200:
                    code = response.json()["error"]["code"]
                    counts["errors"] += 1
                    counts[code] = counts.get(code, 0) + 1
                elif is_right(response.json()["results"][0], expected[index]):
                    counts["right"] += 1
                else:
                    counts["wrong"] += 1

    async def watch() -> None:
        while time.perf_counter() < end:
            memory.append(memory_mb(pid))
            await asyncio.sleep(max(0.1, seconds / 30))

    await asyncio.gather(watch(), *(client(number) for number in range(clients)))
    return counts, memory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16)
    arguments = parser.parse_args()

    files = []
    for item in nano.items("gaussian-noise", "tuning", arguments.images):
        buffer = io.BytesIO()
        Image.fromarray(item.image).save(buffer, "PNG")
        files.append(buffer.getvalue())
    classifier = GRPOTTA("nano-clip", LABELS, batch=arguments.batch)
    expected = classifier.predict([Image.open(io.BytesIO(content)) for content in files])
    before, before_ms = offline_rate(classifier, files, arguments.seconds / 4)

    command = [sys.executable, "-u", "-m", "grpo_tta", "serve", "--port", "0", "--labels", ",".join(LABELS)]
    with subprocess.Popen([*command, "--batch", str(arguments.batch)], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            found = re.search(r"http://[\d.:]+", server.stdout.readline())
            assert found
            address = found[0]
            asyncio.run(load(address, files, expected, arguments.clients, arguments.seconds / 4, server.pid))  # warm up
            began, worked = time.perf_counter(), processor_seconds(server.pid)
            counts, memory = asyncio.run(load(address, files, expected, arguments.clients, arguments.seconds, server.pid))
            served = counts["right"] / (time.perf_counter() - began)
            served_ms = 1000 * (processor_seconds(server.pid) - worked) / max(1, counts["right"])
            metrics = httpx.get(f"{address}/metrics").text
        finally:
            server.terminate()
    after, after_ms = offline_rate(classifier, files, arguments.seconds / 4)

    total, batches = (
        float(re.search(rf"grpo_tta_batch_images_{name} ([\d.]+)", metrics)[1])  # type: ignore[index]
        for name in ("sum", "count")
    )
    offline = (before + after) / 2
    report = {
        "clients": arguments.clients,
        "seconds": arguments.seconds,
        **counts,
        "offline_per_second": [round(before, 2), round(after, 2)],
        "served_per_second": round(served, 2),
        "ratio": round(served / offline, 3),
        "processor_ms_per_image": {"offline": [round(before_ms, 1), round(after_ms, 1)], "served": round(served_ms, 1)},
        "mean_batch": round(total / batches, 2),
        "memory_mb": [round(value) for value in memory],
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "exit_status_of_server": server.returncode,
    }
    print(json.dumps(report, indent=2))
    quarter = max(1, len(memory) // 4)
    flat = median(memory[-quarter:]) < 1.1 * median(memory[:quarter])
    good = counts["right"] > 0 and not counts["wrong"] and not counts["errors"] and served >= 0.8 * offline and flat
    return 0 if good and server.returncode == 0 else 1


if __name__ == "__main__":
    raise SystemExit(main())
