"""The web page in a headless Chromium: drop an image, type labels, adapt, watch; by keyboard; on a phone; offline.

Needs Chromium as `test_browser` does; absent means failed, never skipped.
"""

from __future__ import annotations

import base64
import gc
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request, Route, expect

from grpo_tta import GRPOTTA
from grpo_tta.app.run import create_app
from grpo_tta.backbones.base import Backbone
from grpo_tta.classifier import Prediction
from tests.app.test_page import colourful
from tests.axe import SCHEMES, WIDTHS, barriers, launched, overflow
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
        gc.collect()  # here, where the warnings above are known: Gradio leaves loops and sockets open
    assert not outside


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator[Browser]:
    """Closed before the server, which waits for the last of its visitors."""
    with launched() as browser:
        yield browser


@pytest.fixture(autouse=True)
def _no_page_stays_open(browser: Browser) -> Iterator[None]:
    yield
    for context in browser.contexts:
        context.close()


def opened(browser: Browser, address: str, width: int, height: int, scheme: str = "light") -> tuple[Page, list[str], list[str]]:
    """The page with its first episode, every address it asked for, and what it complained of."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    asked: list[str] = []
    wrong: list[str] = []

    def note(request: Request) -> None:
        asked.append(request.url)

    page.on("request", note)
    # Gradio answers a request to cancel what is over, or has not begun, with 422
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" and "422" not in m.text else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#tta-trace table")
    return page, asked, wrong


def hosts(asked: list[str]) -> set[str]:
    """What was asked, without the paths."""
    return {re.match(r"\w+://[^/]+|data:|blob:", url)[0] for url in asked}  # type: ignore[index]


STILL = """() => !document.querySelector('[data-testid=status-tracker]:not(.hide), .pending, .generating')
    && document.getAnimations().every(animation => animation.playState !== 'running')"""
"""Nothing on the page waits for the server, or fades."""


def lasting_barriers(page: Page) -> list[str]:
    """Those that stay: Gradio makes faint whatever it is about to replace, and one event may follow another."""
    found: list[str] = []
    for _ in range(6):
        page.wait_for_function(STILL)
        found = barriers(page)
        if not found:
            break
        page.wait_for_timeout(500)
    return found


def clear(page: Page) -> None:
    page.locator("#tta-image").get_by_role("button", name=re.compile("clear|remove", re.I)).click()
    expect(page.locator("#tta-image input[type=file]")).to_have_count(1)


def upload(page: Page, path: Path) -> None:
    page.locator("#tta-image input[type=file]").set_input_files(path)


def drop(page: Page, path: Path) -> None:
    """Onto the image. Of a name that says nothing the browser knows no type."""
    page.evaluate(
        """([name, data]) => {
          const dropped = new DataTransfer();
          dropped.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], name));
          const target = document.querySelector('#tta-image input[type=file]').parentElement;
          target.dispatchEvent(new DragEvent('drop', {dataTransfer: dropped, bubbles: true, cancelable: true}));
        }""",
        [path.name, base64.b64encode(path.read_bytes()).decode()],
    )


def add_to_list(page: Page, paths: list[Path]) -> None:
    """To the list of several images, which must be open."""
    page.locator("#tta-files input[type=file]").set_input_files(paths)
    expect(page.locator("#tta-files tr.file")).to_have_count(len(paths))


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
    clear(page)
    upload(page, tmp_path / "mine.png")
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
    assert hosts(asked) <= {address, "data:", "blob:"}


def test_an_example_is_one_click(browser: Browser, address: str) -> None:
    page, _, wrong = opened(browser, address, 1280, 900)
    page.locator("#tta-examples button").last.click()
    page.wait_for_function("() => document.querySelector('#tta-labels textarea').value.startsWith('0, 1, 2')")
    page.wait_for_function("() => document.querySelector('table.tta-bars th[scope=row]')?.innerText.length === 1")
    assert not wrong


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


def tab_to(page: Page, where: str) -> None:
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate(where):
            return
    raise AssertionError(f"not reached: {where}")


CONTROLS = """() => [...document.querySelectorAll(
    'button, a[href], input:not([type=hidden]), textarea, select, summary, [tabindex="0"]')].filter(
  e => e.checkVisibility({visibilityProperty: true}) && e.getClientRects().length && !e.disabled && e.tabIndex >= 0)"""
"""Everything that can be pressed, chosen or typed into, and boxes that scroll."""
NAMED = "e => e.name && e.type === 'radio' ? e.name : (e.dataset.control ??= String(Math.random()))"
"""Of radio buttons the keyboard reaches one, and the arrows the others."""
MISSED = f"reached => ({CONTROLS})().filter(e => !reached.includes(({NAMED})(e))).map(e => e.outerHTML.slice(0, 200))"


def test_the_keyboard_reaches_everything(browser: Browser, address: str, tmp_path: Path) -> None:
    page, _, _ = opened(browser, address, 1280, 900)
    page.get_by_role("button", name="Model, preset, prompt").press("Enter")
    page.get_by_role("button", name="Several images").press("Enter")
    drawing(0).save(tmp_path / "a.png")
    add_to_list(page, [tmp_path / "a.png"])
    page.locator("#tta-adapt-each").press("Enter")
    page.wait_for_selector("#tta-answers table")
    for summary in page.locator("summary").all():
        summary.press("Enter")
    page.wait_for_function(STILL)
    page.evaluate("document.activeElement.blur()")
    reached: set[str] = set()
    missed = page.evaluate(MISSED, [])
    assert len(missed) > 25
    for _ in range(60):  # once around: who only passes through changes nothing, so no part is replaced below the focus
        page.keyboard.press("Tab")
        reached.add(page.evaluate(f"() => document.activeElement && ({NAMED})(document.activeElement)"))
    assert not page.evaluate(MISSED, list(reached))


def test_whatever_is_uploaded_is_shown_or_gets_a_sentence(
    browser: Browser, address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page, _, wrong = opened(browser, address, 1280, 900)
    image = colourful(640, 480)
    image.save(tmp_path / "mine.jpg")
    image.save(tmp_path / "mine.tif")
    image.save(tmp_path / "without-suffix", "PNG")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "mine.jpg").read_bytes()[:4000])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "empty.jpg").touch()
    unknown = "not an image in a known format; remove it or convert it to PNG or JPEG."
    sentences = {
        "cut.jpg": "copy or export it again",
        "text.jpg": unknown,
        "notes.txt": unknown,
        "empty.jpg": "the file is empty; copy it again.",
    }
    clear(page)
    upload(page, tmp_path / "mine.jpg")  # a file before must not change what becomes of the next one
    expect(page.locator("#tta-notice")).to_contain_text("photo-clip")
    clear(page)
    for name, sentence in sentences.items():
        upload(page, tmp_path / name)
        expect(page.locator("#tta-notice [role=alert]")).to_contain_text(
            re.compile(f"^{re.escape(name)}: .*{re.escape(sentence)}")
        )
        expect(page.locator("#tta-answer .tta-empty")).to_be_visible()
        expect(page.locator("#tta-image img")).to_have_count(0)  # the field is free for another file
    drop(page, tmp_path / "notes.txt")
    expect(page.locator("#tta-notice [role=alert]")).to_contain_text("notes.txt")
    for name in ("mine.tif", "without-suffix"):
        drop(page, tmp_path / name)
        page.wait_for_function("() => document.querySelector('#tta-image img')?.naturalWidth === 640")
        expect(page.locator("#tta-notice [role=alert]")).to_have_count(0)
        clear(page)
    assert page.locator(".toast-body").count() == 0  # Gradio's own errors
    # a browser shows no TIFF before it is PNG
    assert not [text for text in wrong if "mine.tif" not in text]
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err


def test_a_photograph_of_ones_own(browser: Browser, address: str, tmp_path: Path) -> None:
    """It is not shifted, and gets a model of photographs."""
    page, _, wrong = opened(browser, address, 1280, 900)
    colourful(640, 480).save(tmp_path / "mine.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "mine.jpg").read_bytes()[:4000])
    clear(page)
    expect(page.locator("#tta-answer .tta-empty")).to_be_visible()
    upload(page, tmp_path / "mine.jpg")
    expect(page.locator("#tta-notice")).to_contain_text("so photo-clip was chosen")
    expect(page.locator("#tta-shift").get_by_label("none")).to_be_checked()
    expect(page.locator("#tta-answer .tta-empty")).to_be_visible()
    assert page.locator("#tta-labels textarea").input_value().startswith("airplane, automobile")
    page.get_by_role("button", name="Adapt", exact=True).click()
    wait_for_answer(page, "untouched")
    page.get_by_text("The same answer in Python").click()
    expect(page.locator("#tta-answer pre").last).to_contain_text("grpo-tta predict mine.jpg --labels airplane,")
    page.get_by_role("button", name="Compare presets").click()
    expect(page.locator("#tta-compared tbody tr")).to_have_count(4)
    clear(page)
    upload(page, tmp_path / "cut.jpg")
    expect(page.locator("#tta-notice [role=alert]")).to_contain_text("cut.jpg")
    expect(page.locator("#tta-compared table")).to_have_count(0)

    page.get_by_role("button", name="Several images").click()
    add_to_list(page, [tmp_path / "mine.jpg", tmp_path / "cut.jpg"])
    page.get_by_role("button", name="Adapt to each").click()
    expect(page.locator("#tta-answers tbody tr")).to_have_count(2)
    expect(page.locator("#tta-answers")).to_contain_text("cut.jpg: truncated or damaged")
    assert not wrong


def test_a_stream(
    browser: Browser, address: str, nano_backbone: Backbone, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page, asked, wrong = opened(browser, address, 390, 844)
    page.locator("#tta-labels textarea").fill("star, heart, fish")
    page.get_by_role("button", name="Several images").click()
    page.get_by_role("button", name="Adapt along the stream").click()
    expect(page.locator("#tta-answers [role=alert]")).to_contain_text("drop some")
    paths = [tmp_path / f"{i:02d}.png" for i in range(18)]
    for i, path in enumerate(paths):
        drawing(i).save(path)
    paths[3].write_text("no image")
    add_to_list(page, paths)
    page.get_by_role("button", name="Adapt along the stream").click()
    images, minibatches = (
        page.get_by_role("region", name=name) for name in ("images of the stream", "where the stream stands")
    )
    expect(images.locator("tbody tr")).to_have_count(18)
    assert minibatches.locator("tbody th").all_inner_texts() == ["16", "18"]
    answers = list(GRPOTTA(nano_backbone, ["star", "heart", "fish"]).stream(paths, errors="return"))
    for i, (row, answer) in enumerate(zip(images.locator("tbody tr").all(), answers, strict=True)):
        cells = row.locator("td").all_inner_texts()
        if isinstance(answer, Prediction):
            assert cells[:3] == [answer.label_before, answer.label, f"{100 * answer.probability:.1f}\u00a0%"]
        else:
            assert i == 3
            assert cells == ["03.png: not an image in a known format; remove it or convert it to PNG or JPEG."]
    assert not lasting_barriers(page)
    assert overflow(page) <= 0
    page.locator("#tta-answers summary").click()
    expect(page.locator("#tta-answers pre")).to_contain_text("00.png 01.png 02.png")
    expect(page.locator("#tta-answers pre")).to_contain_text("--online")
    page.locator("#tta-labels textarea").fill("star, heart")
    expect(page.locator("#tta-answers table")).to_have_count(0)  # they were answers to other labels
    assert hosts(asked) <= {address, "data:", "blob:"}
    assert not wrong
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err


def test_what_is_asked_while_a_change_is_on_its_way_is_answered(browser: Browser, address: str, tmp_path: Path) -> None:
    """A change makes earlier answers void, and no later one, however long the server takes to hear of it."""
    page, _, _ = opened(browser, address, 1280, 900)
    page.get_by_role("button", name="Model, preset, prompt").click()
    page.get_by_role("button", name="Several images").click()
    drawing(0).save(tmp_path / "a.png")
    waiting: list[Route] = []
    page.route("**/gradio_api/run/predict", lambda route: waiting.append(route))  # what the page asks by itself
    page.locator("#tta-preset").get_by_label("fast").check()
    page.locator("#tta-labels textarea").fill("star, heart, fish")
    add_to_list(page, [tmp_path / "a.png"])
    page.get_by_role("button", name="Compare presets").click()
    page.get_by_role("button", name="Adapt to each").click()
    expect(page.locator("#tta-compared tbody tr")).to_have_count(4)
    expect(page.locator("#tta-answers tbody tr")).to_have_count(1)
    assert waiting
    for route in waiting:  # those that come in between among them
        route.continue_()
    page.unroute("**/gradio_api/run/predict")
    expect(page.locator("#tta-answer .tta-empty")).to_be_visible()  # the first answer was to other labels
    page.wait_for_function(STILL)
    expect(page.locator("#tta-compared tbody tr")).to_have_count(4)
    expect(page.locator("#tta-answers tbody tr")).to_have_count(1)


def test_a_comparison_belongs_to_its_question(browser: Browser, address: str) -> None:
    page, _, _ = opened(browser, address, 1280, 900)
    compared = page.locator("#tta-compared tbody tr")
    page.get_by_role("button", name="Compare presets").click()
    expect(compared).to_have_count(4)
    page.locator("#tta-severity input[type=number]").press("Tab")  # changes nothing
    page.wait_for_function(STILL)
    expect(compared).to_have_count(4)
    page.locator("#tta-shift").get_by_label("noise").check()
    expect(compared).to_have_count(0)
    wait_for_answer(page, "noise, severity 4")
    page.get_by_role("button", name="Compare presets").click()
    expect(compared).to_have_count(4)
    page.locator("#tta-severity input[type=number]").fill("2")
    page.keyboard.press("Tab")
    expect(compared).to_have_count(0)
    wait_for_answer(page, "noise, severity 2")


def test_images_are_taken_as_listed_or_by_name_and_the_last_button_counts(
    browser: Browser, address: str, tmp_path: Path
) -> None:
    """The list is dragged by mouse alone, so there is another way to order it."""
    page, _, _ = opened(browser, address, 1280, 900)
    page.get_by_role("button", name="Several images").click()
    paths = [tmp_path / f"{i:02d}.png" for i in reversed(range(40))]
    for i, path in enumerate(paths):
        drawing(i).save(path)
    add_to_list(page, paths)
    page.get_by_role("button", name="Adapt to each").click()
    page.get_by_role("button", name="Adapt along the stream").click()  # in place of the first
    images = page.get_by_role("region", name="images of the stream").locator("tbody th")
    expect(images).to_have_count(40)
    page.wait_for_function(STILL)
    assert images.first.inner_text() == "1\u00a0·\u00a039.png"
    page.locator("#tta-order").get_by_label("by name").press("Space")
    expect(images).to_have_count(0)
    page.get_by_role("button", name="Adapt along the stream").press("Enter")
    expect(images).to_have_count(40)
    assert images.first.inner_text() == "1\u00a0·\u00a000.png"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("width", "height"), WIDTHS)
def test_on_every_screen(browser: Browser, address: str, tmp_path: Path, width: int, height: int, scheme: str) -> None:
    """With an answer, after another choice of labels, empty, with an error, with a warning: no barrier, nothing sticks out."""

    def check() -> None:
        assert not lasting_barriers(page)
        assert overflow(page) <= 0

    page, asked, _ = opened(browser, address, width, height, scheme)
    dark = page.evaluate("document.body.classList.contains('dark')")
    assert dark == (scheme == "dark")
    if width > 640:
        for name in ("adapt", "answer"):  # the first screen
            box = page.locator(f"#tta-{name}").bounding_box()
            assert box is not None
            assert 0 <= box["y"] < box["y"] + min(box["height"], 600) <= height
    small = page.evaluate(
        """() => [...document.querySelectorAll('#tta-answer *, #tta-trace *')]
            .filter(e => e.children.length === 0 && e.innerText && parseFloat(getComputedStyle(e).fontSize) < 12)
            .map(e => e.innerText)"""
    )
    assert not small
    check()
    page.locator("#tta-labels textarea").fill("star, heart")
    expect(page.locator("#tta-answer .tta-empty")).to_be_visible()
    check()
    clear(page)
    colourful(640, 480).save(tmp_path / "mine.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "mine.jpg").read_bytes()[:4000])
    upload(page, tmp_path / "cut.jpg")
    expect(page.locator("#tta-notice [role=alert]")).to_be_in_viewport()
    check()
    upload(page, tmp_path / "mine.jpg")
    expect(page.locator("#tta-notice")).to_contain_text("so photo-clip was chosen")
    expect(page.locator("#tta-shift").get_by_label("none")).to_be_checked()
    page.get_by_role("button", name="Adapt", exact=True).click()
    wait_for_answer(page, "untouched")
    expect(page.locator("#tta-answer figure")).to_be_in_viewport()
    check()
    assert hosts(asked) <= {address, "data:", "blob:"}
