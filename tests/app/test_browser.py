"""The web page in a headless Chromium: drop an image, type labels, adapt, watch; by keyboard; on a phone; offline.

Needs Chromium as `test_browser` does; absent means failed, never skipped.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

from grpo_tta import GRPOTTA
from grpo_tta.app.run import create_app
from grpo_tta.backbones.base import Backbone
from tests.report.test_browser import browser as chromium
from tests.service.conftest import drawing, serving

LABELS = ["star", "heart", "fish", "<b>cup</b> ${1+1}"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),  # Gradio's own use of pandas
]


@pytest.fixture(scope="module")
def address(nano_backbone: Backbone) -> Iterator[str]:
    """The page's server, which may talk to this machine alone."""
    real = socket.socket.connect
    outside: list[Any] = []

    def connect(self: socket.socket, where: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and where[0] not in ("127.0.0.1", "::1"):
            outside.append(where)
        return real(self, where)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        with serving(create_app(["nano-clip"], lambda name: nano_backbone)) as where:
            yield where
    assert not outside


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def opened(browser: Browser, address: str, width: int, height: int) -> tuple[Page, list[str], list[str]]:
    """The page with its first episode, every address it asked for, and what it complained of."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    asked: list[str] = []
    wrong: list[str] = []

    def note(request: Request) -> None:
        asked.append(request.url)

    page.on("request", note)
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#tta-trace table")
    return page, asked, wrong


def bars(page: Page) -> dict[str, list[str]]:
    """Label -> percents as they are written, zero-shot and adapted."""
    rows = page.locator("#tta-answer table.tta-bars tbody tr").all()
    return {row.locator("th").inner_text(): row.locator("td .tta-number").all_inner_texts() for row in rows}


def wait_for_answer(page: Page, wait_for: str) -> None:
    page.wait_for_function(
        "text => { const t = document.querySelector('#tta-answer'); return t && t.innerText.includes(text); }", arg=wait_for
    )


def test_upload_labels_adapt_watch(browser: Browser, address: str, nano_backbone: Backbone, tmp_path: Path) -> None:
    page, asked, wrong = opened(browser, address, 1280, 900)
    image = drawing(3, "gaussian-noise")
    image.save(tmp_path / "mine.png")
    first = bars(page)
    page.locator("#tta-image").get_by_role("button", name=re.compile("clear|remove", re.I)).click()
    page.locator("#tta-image input[type=file]").set_input_files(tmp_path / "mine.png")
    page.wait_for_selector("#tta-image img")
    page.locator("#tta-labels textarea").fill(", ".join(LABELS))
    page.locator("#tta-shift").get_by_label("none").check()
    page.get_by_role("button", name="Adapt").click()
    wait_for_answer(page, "untouched")
    page.wait_for_function("() => document.querySelectorAll('table.tta-bars tbody tr').length === 4")
    mine = bars(page)
    assert set(mine) == set(LABELS)  # written as typed, run as nothing
    assert mine != first
    answer = GRPOTTA(nano_backbone, LABELS).predict(image)
    for label, (before, after) in mine.items():
        assert before == f"{100 * answer.probabilities_before[label]:.1f}\u00a0%"
        assert after == f"{100 * answer.probabilities[label]:.1f}\u00a0%"
    assert any(before != after for before, after in mine.values())
    trace = page.locator("#tta-trace")
    expect(trace.locator("ul.tta-views img").first).to_be_visible()
    assert trace.locator("table").first.locator("tbody tr").count() == 4
    expect(trace.get_by_text("KL to the frozen model")).to_be_visible()
    assert "forward passes" in page.locator("#tta-answer").inner_text()

    page.locator("#tta-shift").get_by_label("noise").check()  # adapts at once
    wait_for_answer(page, "noise, severity 4")
    assert bars(page) != mine
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 50_000

    page.get_by_role("button", name="Model, preset, prompt").click()
    page.locator("#tta-preset").get_by_label("paper").check()
    page.get_by_role("button", name="Adapt").click()
    page.wait_for_function("() => document.querySelectorAll('#tta-trace caption').length === 6")

    page.locator("#tta-labels textarea").fill("star")
    page.get_by_role("button", name="Adapt").click()
    expect(page.get_by_text("classification needs at least two")).to_be_visible()
    assert not wrong
    assert {re.match(r"\w+://[^/]+|data:|blob:", url)[0] for url in asked} <= {address, "data:", "blob:"}  # type: ignore[index]
    page.close()


def test_an_example_is_one_click(browser: Browser, address: str) -> None:
    page, _, wrong = opened(browser, address, 1280, 900)
    page.locator("#tta-examples button").last.click()
    page.wait_for_function("() => document.querySelector('#tta-labels textarea').value.startsWith('0, 1, 2')")
    page.wait_for_function("() => document.querySelector('table.tta-bars th[scope=row]').innerText.length === 1")
    assert not wrong
    page.close()


def test_the_keyboard_is_enough(browser: Browser, address: str) -> None:
    page, _, _ = opened(browser, address, 1280, 900)
    page.locator("#tta-labels textarea").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("star, heart, fish")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.value === 'blur'"):
            page.keyboard.press("Space")
            wait_for_answer(page, "blur, severity 4")
        if page.evaluate("document.activeElement.id === 'tta-adapt'"):
            break
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"  # one sees where one is
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('table.tta-bars tbody tr').length === 3")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_can_read_it(browser: Browser, address: str, tmp_path: Path, scheme: str) -> None:
    page, _, wrong = opened(browser, f"{address}/?__theme={scheme}", 390, 844)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    small = page.evaluate(
        """() => [...document.querySelectorAll('#tta-answer *, #tta-trace *')]
            .filter(e => e.children.length === 0 && e.innerText && parseFloat(getComputedStyle(e).fontSize) < 12)
            .map(e => e.innerText)"""
    )
    assert not small
    assert page.evaluate("matchMedia('(max-width: 640px)').matches")
    page.screenshot(path=tmp_path / f"phone-{scheme}.png", full_page=True)
    assert not wrong
    page.close()
