"""A classifier with few views, images as files, and the application on a real loopback socket."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image

from grpo_tta import GRPOTTA, ViewSettings
from grpo_tta.backbones.base import Backbone
from grpo_tta.data import nano
from grpo_tta.method.settings import DEFAULT
from grpo_tta.service.limits import Limits
from grpo_tta.service.listen import open_socket

LABELS = nano.TASKS["source"].classes
FEW = replace(DEFAULT, views=ViewSettings(views=2, content_free=1))
CLASSIFY = "/v1/classify"
PATIENT = Limits(seconds=600)  # a slow machine is no reason to refuse, where time is not what is tested


def drawing(number: int, task: str = "fog") -> Image.Image:
    return Image.fromarray(nano.item(task, "tuning", number).image)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The application under uvicorn on a free loopback port, on a thread of its own."""
    listener = open_socket("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def make_quick(nano_backbone: Backbone) -> Callable[[], GRPOTTA]:
    return lambda: GRPOTTA(nano_backbone, LABELS, settings=FEW)


@pytest.fixture(scope="session")
def quick(make_quick: Callable[[], GRPOTTA]) -> GRPOTTA:
    return make_quick()
