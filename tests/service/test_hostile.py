"""Hostile input: 1,000 mutated images, and requests that schemathesis makes up. No 5xx, no crash, no hang."""

from __future__ import annotations

import asyncio
import io
import struct
import subprocess
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from grpo_tta import GRPOTTA
from grpo_tta.service.http import create_service
from tests.service.conftest import CLASSIFY, PATIENT, drawing, encoded, serving
from tests.service.test_classify import same

COUNT = 1000


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int = 8, colour: int = 2, content: bytes = b"") -> bytes:
    """A PNG whose header says what it likes."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def seeds() -> list[bytes]:
    """Good images of every format and of the awkward kinds: animated, CMYK, 16-bit, float, palette, rotated."""
    rng = np.random.default_rng(1)
    a = drawing(0)
    turned = Image.Exif()
    turned[0x0112] = 5
    return [
        encoded(a),
        encoded(a.convert("P")),
        encoded(a.convert("1")),
        encoded(Image.fromarray(rng.integers(0, 65536, (40, 50), dtype=np.uint16))),
        encoded(a, "PNG", **several()),
        encoded(a, "JPEG", exif=turned),
        encoded(a, "JPEG", progressive=True),
        encoded(a.convert("CMYK"), "JPEG"),
        encoded(a, "MPO", **several()),
        encoded(a, "GIF", **several()),
        encoded(a, "WEBP"),
        encoded(a, "WEBP", lossless=True, **several()),
        encoded(a, "BMP"),
        encoded(a, "PPM"),
        encoded(a, "TIFF"),
        encoded(a, "TIFF", compression="tiff_lzw"),
        encoded(a, "TIFF", compression="jpeg"),
        encoded(a.convert("CMYK"), "TIFF", compression="tiff_deflate", **several()),
        encoded(Image.fromarray(rng.random((30, 30), dtype=np.float32)), "TIFF"),
        encoded(Image.fromarray(rng.integers(0, 65536, (40, 50), dtype=np.uint16)), "TIFF"),
    ]


def several() -> dict[str, object]:
    """Frames made anew each time: Pillow leaves one format's options on an image and trips over them in the next."""
    return {"save_all": True, "append_images": [drawing(1), drawing(2)]}


def never_good() -> list[bytes]:
    """Bombs, lies about sizes, strips, other kinds of files."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.png", encoded(drawing(0)))
    bombs = [png(side, side, 8, 2) for side in (2**14, 2**16, 2**20, 2**31 - 1)]
    strips = [encoded(Image.new("L", size)) for size in ((1, 4000), (4000, 1), (2, 65))]
    big = [encoded(Image.new("1", (5000, 5000))), encoded(Image.new("1", (5000, 5000)), "TIFF", compression="group4")]
    lies = [png(0, 0), png(0, 9), png(64, 64, 8, 2, b"\0" * 9), png(64, 64, 7, 9), b"GIF89a" + b"\xff" * 40]
    others = [b"x", b"\0" * 99, b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<html>", b"%PDF-1.7", b"{}", b"BM", b"P6"]
    others += [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"RIFF\0\0\0\0WEBP",
        b"II*\0\x08\0\0\0",
        archive.getvalue(),
    ]
    return bombs + strips + big + lies + others


def mutated(good: list[bytes], number: int) -> bytes:
    """One damaged file: cut short, bits flipped, a stretch zeroed, doubled, shuffled, or overwritten with large numbers."""
    rng = np.random.default_rng(number)
    content = bytearray(good[number % len(good)])
    kind = number // len(good) % 6
    at = int(rng.integers(1, len(content)))
    length = int(rng.integers(1, 64))
    if kind == 0:
        return bytes(content[:at])
    if kind == 1:
        for place in rng.integers(0, len(content), int(rng.integers(1, 12))):
            content[place] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        content[at : at + length] = bytes(len(content[at : at + length]))
    elif kind == 3:
        content[at:at] = content[max(0, at - length) : at]
    elif kind == 4:
        content[at : at + length] = rng.permutation(np.frombuffer(bytes(content[at : at + length]), np.uint8)).tobytes()
    else:
        head = int(rng.integers(4, 64))
        content[head : head + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\1\0\0"])
    return bytes(content)


def test_a_thousand_mutated_images(make_quick: Callable[[], GRPOTTA]) -> None:
    good, bad = seeds(), never_good()
    files = bad + [mutated(good, number) for number in range(COUNT - len(bad))]
    app = create_service(make_quick(), replace(PATIENT, pixels=2**22))

    async def main() -> tuple[list[httpx.Response], list[httpx.Response], httpx.Response]:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x", timeout=600) as client,
        ):
            one_by_one = asyncio.Semaphore(16)

            async def send(content: bytes) -> httpx.Response:
                async with one_by_one:
                    return await client.post(CLASSIFY, files={"images": content})

            first = await asyncio.gather(*map(send, good))
            rest = await asyncio.gather(*map(send, files))
            return first, rest, await client.get("/healthz")

    first, rest, health = asyncio.run(main())
    assert {response.status_code for response in first} == {200}
    assert len(rest) == COUNT
    outcomes = Counter(r.status_code if r.status_code == 200 else r.json()["error"]["code"] for r in rest)
    assert set(outcomes) <= {200, "damaged_image", "not_an_image", "too_many_pixels", "too_elongated"}, outcomes
    assert all(response.status_code == 422 for response in rest[: len(bad)])
    assert outcomes["damaged_image"] > 100
    assert outcomes[200] > 50  # some damage is only seen in the pixels
    assert health.status_code == 200


def test_a_good_image_among_damaged_ones_gets_its_own_answer(quick: GRPOTTA) -> None:
    good = seeds()
    expected = quick.predict(drawing(0))
    with serving(create_service(quick, PATIENT)) as address, httpx.Client(base_url=address, timeout=600) as client:
        for number in range(20):
            client.post(CLASSIFY, files={"images": mutated(good, number)})
            answer = client.post(CLASSIFY, files={"images": good[0]}).json()["results"][0]
            assert same(answer, expected)


def test_the_service_is_what_its_schema_says(quick: GRPOTTA, tmp_path: Path) -> None:
    # Not checked: that all data that fits the schema is accepted. No schema can say which bytes are an image.
    options = ["--phases=examples,coverage,fuzzing", "--exclude-checks=positive_data_acceptance", "--max-examples=40"]
    options += ["--seed=1", "--generation-database=none", "--request-timeout=600", "--no-color"]
    with serving(create_service(quick, PATIENT)) as address:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json", *options]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=900)
        assert httpx.get(address + "/healthz").status_code == 200
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert "3 selected / 3 total" in done.stdout
