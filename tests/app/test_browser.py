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
from tests.app.test_page import colourful
from tests.report.test_browser import browser as chromium
from tests.service.conftest import drawing, serving

LABELS = ["star", "heart", "fish", "<b>cup</b> ${1+1}"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),  # Gradio's own use of pandas
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # Gradio leaves uploads open
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
        with serving(create_app(["nano-clip", "photo-clip"], lambda name: nano_backbone)) as where:
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
    expect(page.locator("#tta-shift").get_by_label("none")).to_be_checked()
    page.locator("#tta-labels textarea").fill(", ".join(LABELS))
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
    expect(page.locator("#tta-answer .tta-empty")).to_be_visible()  # the old answer was to other labels
    expect(page.locator("#tta-trace table")).to_have_count(0)
    page.get_by_role("button", name="Adapt").click()
    expect(page.locator("#tta-answer [role=alert]")).to_contain_text("classification needs at least two")
    assert not wrong
    assert {re.match(r"\w+://[^/]+|data:|blob:", url)[0] for url in asked} <= {address, "data:", "blob:"}  # type: ignore[index]
    page.close()


def test_an_example_is_one_click(browser: Browser, address: str) -> None:
    page, _, wrong = opened(browser, address, 1280, 900)
    page.locator("#tta-examples button").last.click()
    page.wait_for_function("() => document.querySelector('#tta-labels textarea').value.startsWith('0, 1, 2')")
    page.wait_for_function("() => document.querySelector('table.tta-bars th[scope=row]')?.innerText.length === 1")
    assert not wrong
    page.close()


def test_the_keyboard_is_enough(browser: Browser, address: str) -> None:
    page, _, _ = opened(browser, address, 1280, 900)
    page.locator("#tta-labels textarea").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("star, heart, fish")
    tab_to(page, "document.activeElement.id === 'tta-adapt'")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"  # one sees where one is
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('table.tta-bars tbody tr').length === 3")
    tab_to(page, "document.activeElement.value === 'blur'")
    page.keyboard.press("Space")
    wait_for_answer(page, "blur, severity 4")
    page.close()


def tab_to(page: Page, where: str) -> None:
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate(where):
            return
    raise AssertionError(f"not reached: {where}")


def test_a_photograph_of_ones_own(browser: Browser, address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It is not shifted, gets a model of photographs, and whatever cannot be decoded is a sentence."""
    page, _, wrong = opened(browser, address, 1280, 900)
    for name in ("adapt", "answer"):
        box = page.locator(f"#tta-{name}").bounding_box()
        assert box is not None
        assert 0 <= box["y"] < box["y"] + min(box["height"], 300) <= 900  # the first screen
    image = colourful(640, 480)
    image.save(tmp_path / "mine.jpg")
    image.save(tmp_path / "mine.tif")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "mine.jpg").read_bytes()[:4000])

    def upload(name: str) -> None:
        page.locator("#tta-image").get_by_role("button", name=re.compile("clear|remove", re.I)).click()
        expect(page.locator("#tta-answer .tta-empty")).to_be_visible()
        page.locator("#tta-image input[type=file]").set_input_files(tmp_path / name)

    upload("mine.jpg")
    expect(page.locator("#tta-notice")).to_contain_text("so photo-clip was chosen")
    expect(page.locator("#tta-shift").get_by_label("none")).to_be_checked()
    expect(page.locator("#tta-answer .tta-empty")).to_be_visible()
    assert page.locator("#tta-labels textarea").input_value().startswith("airplane, automobile")
    page.get_by_role("button", name="Adapt").click()
    wait_for_answer(page, "untouched")
    page.get_by_text("The same answer in Python").click()
    expect(page.locator("#tta-answer pre").last).to_contain_text("grpo-tta predict mine.jpg --labels airplane,")
    page.get_by_role("button", name="Compare presets").click()
    expect(page.locator("#tta-compared tbody tr")).to_have_count(4)

    for name in ("cut.jpg",):
        upload(name)
        expect(page.locator("#tta-answer [role=alert]")).to_contain_text(name)
        expect(page.locator("#tta-compared table")).to_have_count(0)
    page.get_by_role("button", name="Several images").click()
    page.locator("#tta-several input[type=file]").set_input_files([tmp_path / "mine.jpg", tmp_path / "cut.jpg"])
    page.get_by_role("button", name="Adapt to each").click()
    expect(page.locator("#tta-answers tbody tr")).to_have_count(2)
    expect(page.locator("#tta-answers")).to_contain_text("cut.jpg: truncated or damaged")
    upload("mine.tif")
    page.wait_for_function("() => document.querySelector('#tta-image img')?.naturalWidth === 640")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    page.close()
    # Gradio answers a request to cancel what is over with 422, and a browser shows no TIFF before it is PNG
    assert not [text for text in wrong if "mine.tif" not in text and "422" not in text]
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err


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
