"""What clients send that is right in spirit, and connections that never say what they want."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image

from grpo_tta import GRPOTTA
from grpo_tta.service.http import create_service
from grpo_tta.service.listen import open_socket, patient_protocol
from tests.service.conftest import CLASSIFY, PATIENT, drawing, encoded, serving

IMAGE = encoded(drawing(0))


@pytest.fixture(scope="module")
def client(quick: GRPOTTA) -> Iterator[httpx.Client]:
    with serving(create_service(quick, PATIENT)) as address, httpx.Client(base_url=address, timeout=600) as made:
        yield made


def test_head_is_answered_where_get_is(client: httpx.Client) -> None:
    for path in ("/healthz", "/metrics"):
        found = client.head(path)
        assert (found.status_code, found.content) == (200, b"")
    assert client.head(CLASSIFY).status_code == 405


@pytest.mark.parametrize("before", ["", "data:image/png;base64,", "\n "])
def test_base64_may_be_wrapped(client: httpx.Client, before: str) -> None:
    plain = client.post(CLASSIFY, json={"images": base64.b64encode(IMAGE).decode()})
    wrapped = base64.encodebytes(IMAGE).decode()
    for text in (wrapped, wrapped.replace("\n", "\r\n")):
        found = client.post(CLASSIFY, json={"images": before + text})
        assert found.status_code == 200, found.text
        assert found.json() == plain.json()
    assert client.post(CLASSIFY, json={"images": "iVBOR*w0KGgo"}).json()["error"]["code"] == "malformed"


def test_labels_in_one_field_are_split(client: httpx.Client) -> None:
    one = client.post(CLASSIFY, files={"images": IMAGE}, data={"labels": "star, red circle,square"})
    several = client.post(CLASSIFY, files={"images": IMAGE}, data={"labels": ["star", "red circle", "square"]})
    assert one.status_code == 200, one.text
    assert one.json()["labels"] == ["star", "red circle", "square"]
    assert one.json() == several.json()
    commas = client.post(CLASSIFY, files={"images": IMAGE}, data={"labels": ["a, b", "c"]})
    assert commas.json()["labels"] == ["a, b", "c"]
    for text, code in (("star", "unusable_labels"), ("star,,square", "unusable_labels"), ("a," * 100 + "b", "too_many_labels")):
        found = client.post(CLASSIFY, files={"images": IMAGE}, data={"labels": text})
        assert (found.status_code, found.json()["error"]["code"]) == (422, code)


@pytest.mark.parametrize("kind", ["TIFF", "AVIF", "ICO", "TGA", "JPEG2000"])
def test_the_service_reads_what_predict_reads(client: httpx.Client, quick: GRPOTTA, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"image.{'jp2' if kind == 'JPEG2000' else kind.lower()}"
    drawing(0).save(path, kind)
    found = client.post(CLASSIFY, files={"images": path.read_bytes()})
    assert found.status_code == 200, found.text
    assert found.json()["results"][0]["label"] == quick.predict(path).label


def test_a_genuine_heic_photograph(client: httpx.Client, tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.new("RGB", (64, 48), "red")).save(str(tmp_path / "a.heic"))
    assert client.post(CLASSIFY, files={"images": (tmp_path / "a.heic").read_bytes()}).status_code == 200


@contextmanager
def impatient(app: FastAPI, seconds: float) -> Iterator[int]:
    listener = open_socket("127.0.0.1", 0)
    config = uvicorn.Config(app, log_level="error", http=patient_protocol(seconds), timeout_keep_alive=60)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def closed_after(port: int, *parts: bytes, pause: float = 0.2, most: float = 20.0) -> float:
    """Seconds until the service closes a connection that sends these parts, a pause apart."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(most)
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        while connection.recv(4096):
            pass
    return time.monotonic() - began


def test_an_unfinished_header_is_closed_in_time(quick: GRPOTTA) -> None:
    with impatient(create_service(quick, PATIENT), 1.5) as port:
        half = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
        whole = half + b"\r\n"
        assert closed_after(port) >= 1.4
        assert 1.4 <= closed_after(port, half) < 10
        assert 1.4 <= closed_after(port, *[half, *[b"A: b\r\n"] * 4]) < 10  # drop by drop
        assert 1.4 <= closed_after(port, whole, half) < 10  # the second request of a connection
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
            for _ in range(2):  # an answer that takes longer than a header may is not cut off
                assert client.post(CLASSIFY, files=[("images", IMAGE)] * 16).status_code == 200
                time.sleep(0.1)
