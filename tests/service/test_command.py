"""`grpo-tta serve` as its own process: starts, answers, stops in good order, and says what is wrong in one sentence."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from grpo_tta import UserError
from grpo_tta.cli.main import main
from grpo_tta.cli.web import need_extra
from grpo_tta.service.listen import open_socket
from tests.service.conftest import CLASSIFY, drawing, encoded

ARGUMENTS = ["serve", "--labels", "star,heart,fish", "--port", "0", "--max-seconds", "600"]
KNOWS = "nano-clip knows drawings alone: for photographs name another --model (photo-clip, ViT-B-16/openai, ...)."
COMMAND = [sys.executable, "-u", "-m", "grpo_tta", *ARGUMENTS]


def test_a_signal_finishes_what_was_accepted_and_ends_well() -> None:
    files = [("images", encoded(drawing(n))) for n in range(8)]
    with (
        subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
        ThreadPoolExecutor(1) as pool,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found, line
            address = found[0]
            asked = pool.submit(httpx.post, address + CLASSIFY, files=files, timeout=600)
            pause = threading.Event()
            while "grpo_tta_accepted_images 8.0" not in httpx.get(address + "/metrics", timeout=600).text:
                assert not asked.done(), asked.result().text
                pause.wait(0.005)
            process.send_signal(signal.SIGTERM)
            answer = asked.result()
            assert answer.status_code == 200
            assert len(answer.json()["results"]) == 8
            out, err = process.communicate(timeout=600)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert out == ""
    assert err.splitlines() == [KNOWS]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-images", "0"], "images must be positive"),
        (["--threads", "0"], "set --threads to at least 1"),
        (["--labels", "star"], "at least two"),
        (["--host", "256.1.1.1"], "choose another --port or --host"),
    ],
)
def test_bad_arguments_are_one_sentence(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["grpo-tta", *ARGUMENTS, *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    message = capsys.readouterr().err.removeprefix(f"{KNOWS}\n")
    assert stop.value.code == 2
    assert message in message
    assert len(message.strip().splitlines()) == 1


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"Cannot listen on 127.0.0.1 port {port}"):
            open_socket("127.0.0.1", port)


def test_a_missing_extra_is_named() -> None:
    need_extra("serve", "fastapi")
    with pytest.raises(UserError, match=r'python -m pip install "grpo-tta\[serve\]"'):
        need_extra("serve", "fastapi", "no_such_module")
