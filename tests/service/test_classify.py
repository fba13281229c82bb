"""`/v1/classify` and its neighbours over real loopback connections."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import httpx
import numpy as np
import pytest
from PIL import Image

from grpo_tta import GRPOTTA, Prediction, UserError
from grpo_tta.backbones.base import Backbone
from grpo_tta.images.inputs import decode_image
from grpo_tta.service.http import create_service
from grpo_tta.service.images import Opened
from grpo_tta.service.limits import Limits
from tests.service.conftest import CLASSIFY, FEW, LABELS, PATIENT, drawing, encoded, serving

SMALL = replace(
    PATIENT,
    body_bytes=40_000, image_bytes=20_000, pixels=10_000, aspect=4, images=3, labels=4, label_characters=20, queue=6
)  # fmt: skip
ENCODED = encoded(drawing(0))


@pytest.fixture(scope="module")
def client(quick: GRPOTTA) -> Iterator[httpx.Client]:
    with serving(create_service(quick, SMALL, batch=4)) as address, httpx.Client(base_url=address, timeout=600) as client:
        yield client


def form(*images: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", ("x", image)) for image in images]


def text(image: bytes) -> str:
    return base64.b64encode(image).decode()


def same(found: dict, expected: Prediction) -> bool:
    """Equal up to the rounding of another batch size."""
    return list(found["probabilities"]) == list(expected.probabilities) and all(
        found[key] == pytest.approx(asdict(expected)[key], abs=1e-5)
        for key in ("probability", "probabilities", "probabilities_before", "forwards", "backwards")
    )


def test_forms_and_json_get_the_offline_answers_in_order(client: httpx.Client, quick: GRPOTTA) -> None:
    images = [encoded(drawing(number)) for number in range(3)]
    expected = quick.predict([drawing(number) for number in range(3)])
    for response in (
        client.post(CLASSIFY, files=form(*images)),
        client.post(CLASSIFY, json={"images": [text(image) for image in images]}),
        client.post(CLASSIFY, json={"images": ["data:image/png;base64," + text(image) for image in images]}),
    ):
        assert response.status_code == 200, response.text
        answers = response.json()
        assert (answers["model"], answers["labels"]) == ("nano-clip", list(LABELS))
        assert len(answers["results"]) == 3
        for found, answer in zip(answers["results"], expected, strict=True):
            assert same(found, answer)
            assert (found["label"], found["label_before"]) == (answer.label, answer.label_before)
    alone = client.post(CLASSIFY, json={"images": text(images[1])}).json()["results"]
    assert same(alone[0], expected[1])


def test_a_request_may_bring_its_labels(client: httpx.Client, nano_backbone: Backbone) -> None:
    labels = ["fish", "a big star"]
    expected = GRPOTTA(nano_backbone, labels, settings=FEW).predict(drawing(0))
    for response in (
        client.post(CLASSIFY, files=form(ENCODED), data={"labels": labels}),
        client.post(CLASSIFY, json={"images": text(ENCODED), "labels": labels}),
    ):
        assert response.json()["labels"] == labels
        assert same(response.json()["results"][0], expected)


def test_labels_of_requests_leave_nothing_on_disk(quick: GRPOTTA, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("GRPO_TTA_CACHE", str(tmp_path))
    with serving(create_service(quick, PATIENT)) as address:
        for number in range(20):  # more than the classifiers that are remembered
            labels = [f"thing {number}", "star"]
            assert httpx.post(address + CLASSIFY, json={"images": text(ENCODED), "labels": labels}).status_code == 200
    assert not list(tmp_path.iterdir())


def test_images_are_read_as_predict_reads_files(client: httpx.Client, quick: GRPOTTA, tmp_path) -> None:
    rng = np.random.default_rng(0)
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = [drawing(number) for number in (1, 2)]
    files = {
        "cmyk.jpg": encoded(drawing(3).convert("CMYK"), "JPEG"),
        "grey16.png": encoded(Image.fromarray(rng.integers(0, 65536, (50, 40), dtype=np.uint16))),
        "alpha.png": encoded(Image.fromarray(rng.integers(0, 256, (30, 40, 4), dtype=np.uint8))),
        "turned.jpg": encoded(drawing(4).crop((0, 0, 64, 40)), "JPEG", exif=turned),
        "moving.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "moving.webp": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "float.tiff": encoded(Image.fromarray(rng.random((30, 30), dtype=np.float32)), "TIFF"),
        "one.pbm": encoded(drawing(5).convert("1"), "PPM"),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        response = client.post(CLASSIFY, files=form(content))
        assert response.status_code == 200, (name, response.text)
        assert same(response.json()["results"][0], quick.predict(tmp_path / name)), name


BOMB = encoded(Image.new("1", (30_000, 30_000)))  # 900 million pixels
BIG = encoded(Image.new("L", (101, 100)))
STRIP = encoded(Image.new("L", (5, 21)))
MANY = [text(ENCODED)] * 4
LONG = "x" * 21
JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize(
    ("status", "code", "message", "sent"),
    [
        (413, "body_too_large", "longer than 40000 bytes", {"content": b" " * 40_001, "headers": JSON}),
        (413, "body_too_large", "longer than 40000 bytes", {"files": form(bytes(40_001))}),
        (413, "body_too_large", "longer than 40000 bytes", {"content": b" " * 200_000, "headers": JSON}),
        (413, "image_too_large", "Image 1 is longer than 20000 bytes", {"files": form(ENCODED, bytes(20_001))}),
        (413, "image_too_large", "Image 0 is longer than 20000 bytes", {"json": {"images": "A" * 30_000}}),
        (422, "too_many_images", "More than 3 images", {"files": form(*[ENCODED] * 4)}),
        (422, "too_many_images", "More than 3 images", {"json": {"images": MANY}}),
        (415, "unsupported_media_type", "not text/plain", {"content": b"x", "headers": {"content-type": "text/plain"}}),
        (415, "unsupported_media_type", "not nothing", {"content": b"x"}),
        (400, "malformed", "not JSON", {"content": b"{", "headers": JSON}),
        (400, "malformed", "not JSON", {"content": b"\xff", "headers": JSON}),
        (400, "malformed", "not JSON", {"content": b"[" * 30_000, "headers": JSON}),
        (400, "malformed", "Image 1 is not base64", {"json": {"images": [text(ENCODED), "a"]}}),
        (400, "malformed", "Image 0 is not base64", {"json": {"images": "\u00e9\u00e9\u00e9\u00e9"}}),
        (400, "malformed", "boundary", {"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data"}}),
        (400, "malformed", "form cannot be read", {"content": b"hello", "headers": FORM}),
        (422, "no_images", "holds no image", {"content": b"--x--\r\n", "headers": FORM}),
        (422, "no_images", "holds no image", {"json": {"images": []}}),
        (422, "no_images", "holds no image", {"json": {}}),
        (422, "invalid_request", "must be an object", {"json": []}),
        (422, "invalid_request", "base64 string or a list", {"json": {"images": 1}}),
        (422, "invalid_request", "base64 string or a list", {"json": {"images": [1]}}),
        (422, "invalid_request", "list of strings", {"json": {"images": text(ENCODED), "labels": "a,b"}}),
        (422, "invalid_request", "Unknown field 'label'", {"json": {"images": text(ENCODED), "label": ["a", "b"]}}),
        (422, "invalid_request", "Unknown field 'label'", {"files": form(ENCODED), "data": {"label": "a"}}),
        (422, "invalid_request", "named images must be files", {"files": [("labels", b"x")], "data": {"images": "x"}}),
        (422, "invalid_request", "named labels must be plain text", {"files": [*form(ENCODED), ("labels", b"x")]}),
        (422, "not_an_image", "Image 1 is in no known format", {"files": form(ENCODED, b"%PDF-1.4 %!PS-Adobe")}),
        (422, "not_an_image", "Image 0 is empty", {"files": form(b"")}),
        (422, "damaged_image", "Image 0 is truncated or damaged", {"files": form(ENCODED[:300])}),
        (422, "damaged_image", "NaN", {"files": form(encoded(Image.new("F", (9, 9), float("nan")), "TIFF"))}),
        (422, "too_many_pixels", "Image 1 has more than 10000", {"files": form(ENCODED, BIG)}),
        (422, "too_elongated", "more than 4 times as long as wide", {"files": form(STRIP)}),
        (422, "too_many_labels", "More than 4 labels", {"files": form(ENCODED), "data": {"labels": [*"abcde"]}}),
        (422, "too_many_labels", "More than 4 labels", {"json": {"images": text(ENCODED), "labels": [*"abcde"]}}),
        (422, "unusable_labels", "longer than 20 characters", {"files": form(ENCODED), "data": {"labels": ["a", LONG]}}),
        (422, "unusable_labels", "longer than 20 characters", {"files": form(ENCODED), "data": {"labels": ["a", 9 * LONG]}}),
        (422, "unusable_labels", "longer than 20 characters", {"json": {"images": text(ENCODED), "labels": ["a", LONG]}}),
        (422, "unusable_labels", "at least two", {"json": {"images": text(ENCODED), "labels": ["a"]}}),
        (422, "unusable_labels", "at least two", {"json": {"images": text(ENCODED), "labels": []}}),
        (422, "unusable_labels", "more than once", {"json": {"images": text(ENCODED), "labels": ["a", " a"]}}),
        (422, "unusable_labels", "control characters", {"json": {"images": text(ENCODED), "labels": ["a", "b\x00"]}}),
    ],
)
def test_every_limit_has_its_own_refusal(client: httpx.Client, status: int, code: str, message: str, sent: dict) -> None:
    response = client.post(CLASSIFY, **sent)
    problem = response.json()["error"]
    assert (response.status_code, problem["code"]) == (status, code), response.text
    assert message in problem["message"]


def test_lone_surrogates_are_refused(client: httpx.Client) -> None:
    body = b'{"images": "%s", "labels": ["a", "\\ud800"]}' % text(ENCODED).encode()
    response = client.post(CLASSIFY, content=body, headers=JSON)
    assert response.json()["error"]["code"] == "unusable_labels"
    assert client.post(CLASSIFY, content=b'{"\\ud800": 1}', headers=JSON).json()["error"]["code"] == "invalid_request"


def test_a_bomb_is_refused_from_its_header(quick: GRPOTTA) -> None:
    with serving(create_service(quick, PATIENT)) as address:
        response = httpx.post(address + CLASSIFY, files=form(BOMB))
    assert response.json()["error"]["code"] == "too_many_pixels"


def test_labels_that_the_model_cannot_read_are_the_clients_fault(quick: GRPOTTA) -> None:
    with serving(create_service(quick, PATIENT)) as address:
        labels = ["star", "x y " * 40]
        response = httpx.post(address + CLASSIFY, json={"images": text(ENCODED), "labels": labels})
    assert (response.status_code, response.json()["error"]["code"]) == (422, "unusable_labels")


class Gate:
    """Holds the batcher's worker at a gate inside the real `predict`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.began = threading.Event(), threading.Event()
        real = GRPOTTA.predict

        def predict(classifier: GRPOTTA, images: list[Image.Image]) -> list[Prediction]:
            self.began.set()
            assert self.open.wait(30)
            return real(classifier, images)

        monkeypatch.setattr(GRPOTTA, "predict", predict)


def gauge(address: str, name: str) -> float:
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(f"{name} ") or line.startswith(f"{name}{{")))


def head(length: int) -> bytes:
    """Of a JSON request, for clients that misbehave after it."""
    lines = [f"POST {CLASSIFY} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {length}"]
    return "\r\n".join([*lines, "", ""]).encode()


def settle(true: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(3000):
        if true():
            return
        pause.wait(0.01)
    raise AssertionError("it never came about")


def test_a_full_queue_refuses_and_a_client_that_leaves_frees_its_place(quick: GRPOTTA, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    limits = replace(SMALL, images=2, queue=2)
    with serving(create_service(quick, limits, batch=1)) as address, ThreadPoolExecutor(1) as pool:
        try:
            first = pool.submit(httpx.post, address + CLASSIFY, files=form(ENCODED), timeout=600)
            assert gate.began.wait(30)
            host, port = address.removeprefix("http://").split(":")
            body = json.dumps({"images": text(ENCODED)}).encode()
            with socket.create_connection((host, int(port))) as leaving:
                leaving.sendall(head(len(body)) + body)
                settle(lambda: gauge(address, "grpo_tta_waiting_images") == 1)
                refused = httpx.post(address + CLASSIFY, files=form(ENCODED), timeout=600)
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_full")
                assert refused.headers["retry-after"] == "1"
            settle(lambda: gauge(address, "grpo_tta_accepted_images") == 1)
            assert gauge(address, "grpo_tta_waiting_images") == 0
            with socket.create_connection((host, int(port))) as half:  # gone in the middle of an upload
                half.sendall(head(len(body)) + body[:10])
            settle(lambda: gauge(address, 'grpo_tta_requests_total{outcome="client_left"}') == 2)
        finally:
            gate.open.set()
        assert first.result().status_code == 200
        assert httpx.post(address + CLASSIFY, files=form(ENCODED, ENCODED), timeout=600).status_code == 200


def test_time_runs_out_with_a_refusal(quick: GRPOTTA, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with serving(create_service(quick, replace(SMALL, seconds=0.5), batch=1)) as address:
        try:
            response = httpx.post(address + CLASSIFY, files=form(ENCODED), timeout=600)
            assert (response.status_code, response.json()["error"]["code"]) == (503, "too_slow")
        finally:
            gate.open.set()
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(head(99))
            slow.settimeout(30)
            assert b"408" in slow.recv(4096).splitlines()[0]


def test_shutdown_finishes_what_was_accepted(quick: GRPOTTA, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with ThreadPoolExecutor(3) as pool:
        with serving(create_service(quick, SMALL, batch=1)) as address:
            waiting = [pool.submit(httpx.post, address + CLASSIFY, files=form(ENCODED), timeout=600) for _ in range(3)]
            settle(lambda: gauge(address, "grpo_tta_accepted_images") == 3)
            threading.Timer(0.5, gate.open.set).start()
        assert [answer.result().status_code for answer in waiting] == [200, 200, 200]
        with pytest.raises(httpx.ConnectError):
            httpx.get(address + "/healthz")


def test_a_failure_of_ours_is_500_and_logged(
    quick: GRPOTTA, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch, serving(create_service(quick, PATIENT)) as address:
        patch.setattr(GRPOTTA, "predict", fail)
        response = httpx.post(address + CLASSIFY, files=form(ENCODED), timeout=600)
        assert (response.status_code, response.json()["error"]["code"]) == (500, "internal")
        assert "out of memory" in caplog.text
        patch.undo()
        assert httpx.post(address + CLASSIFY, files=form(ENCODED), timeout=600).status_code == 200


def test_health_metrics_schema_and_unknown_paths(client: httpx.Client) -> None:
    health = client.get("/healthz").json()
    assert (health["status"], health["model"], health["labels"]) == ("ok", "nano-clip", list(LABELS))
    client.post(CLASSIFY, files=form(ENCODED, ENCODED))
    client.post(CLASSIFY, files=form(b""))
    measured = client.get("/metrics")
    assert measured.headers["content-type"].startswith("text/plain")
    for name in ('requests_total{outcome="ok"}', 'requests_total{outcome="not_an_image"}', "images_total", "forwards_total"):
        assert f"grpo_tta_{name}" in measured.text
    assert "/v1/classify" in client.get("/openapi.json").json()["paths"]
    for page in ("/docs", "/redoc", "/nothing"):  # FastAPI's pages would load scripts from outside
        assert client.get(page).json()["error"]["code"] == "not_found"
    refused = client.get(CLASSIFY)
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"images": 0}, "images must be positive"),
        ({"images": 300}, "never fits into a queue of 256"),
        ({"pixels": 2**26}, "raise queue_pixels"),
        ({"body_bytes": 2**31}, "raise queue_bytes"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(limits: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Limits(**limits)


def test_32_clients_at_once_each_get_their_own_offline_answer(nano_backbone: Backbone) -> None:
    classifier = GRPOTTA(nano_backbone, LABELS)
    images = [drawing(number, "gaussian-noise") for number in range(24)]
    expected = classifier.predict(images)
    files = [encoded(image) for image in images]
    with serving(create_service(classifier, PATIENT)) as address, httpx.Client(base_url=address, timeout=600) as client:

        def ask(number: int) -> str:
            response = client.post(CLASSIFY, files=form(files[number % 24]))
            if response.status_code != 200:
                return response.text
            return "right" if same(response.json()["results"][0], expected[number % 24]) else f"wrong for {number % 24}"

        with ThreadPoolExecutor(32) as pool:
            assert set(pool.map(ask, range(64))) == {"right"}
        batches = client.get("/metrics").text
    assert 'grpo_tta_batch_images_bucket{le="1.0"} 64' not in batches  # they were gathered


def test_a_large_photograph_is_decoded_as_predict_decodes_it() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (2000, 1100), (200, 100, 50)).save(buffer, "JPEG")
    found, expected = Opened(buffer.getvalue(), 0, Limits()).decode(200), decode_image(buffer.getvalue(), 200)
    assert (found.key, found.image.size) == (expected.key, (500, 275))
    assert found.image.tobytes() == expected.image.tobytes()
