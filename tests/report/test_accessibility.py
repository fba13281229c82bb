"""The HTML pages as a screen reader, a keyboard and a narrow window meet them. Needs Chromium as `test_browser` does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from grpo_tta.report.html import write_report
from tests.axe import SCHEMES, WIDTHS, barriers, launched, overflow
from tests.bench.test_sweep import write_sweep
from tests.report.test_browser import QUIET, many_tasks
from tests.report.test_report import write_run

pytestmark = pytest.mark.browser
LONG = ["duck", "a rather long name of a swan that swims on a lake", "goose_of_the_great_northern_wetlands_and_marshes", "hen"]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pages")
    write_report([write_run(folder / "run", 0, classes=LONG)], folder / "report", console=QUIET)
    write_report([write_sweep(folder / "x")], folder / "sweep", console=QUIET)
    write_report([many_tasks(folder / "many-run")], folder / "many", console=QUIET)
    return [folder / name / "report.html" for name in ("report", "sweep", "many")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("width", "height"), WIDTHS)
def test_no_page_has_a_barrier(browser: Browser, pages: list[Path], scheme: str, width: int, height: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for path in pages:
        page.goto(path.as_uri())
        assert not barriers(page)
        assert overflow(page) <= 0
    page.close()
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}


@pytest.mark.parametrize(("width", "height"), WIDTHS)
def test_long_class_names_are_whole_and_in_line(browser: Browser, pages: list[Path], width: int, height: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(pages[0].as_uri())
    part = page.locator("#classes details", has_text="per class of photos")
    part.evaluate("e => { e.open = true; }")
    sides = "cells => [...new Set(cells.map(e => getComputedStyle(e).textAlign))]"
    for column, side in {1: "left", 2: "right", 6: "left"}.items():  # class, rows, taken for; heads as what stands below
        assert part.locator(f"tr > :nth-child({column})").evaluate_all(sides) == [side]
    names = part.locator("tbody th")
    assert names.all_inner_texts() == LONG
    assert names.evaluate_all("cells => cells.every(e => e.scrollWidth <= e.clientWidth && e.clientWidth <= 320)")
    card = page.locator(".episode:not([hidden])", has_text="truth: goose").first
    assert card.locator("dd").evaluate_all("cells => cells.every(e => e.querySelector('.text').scrollWidth <= e.clientWidth)")
    assert card.locator("dd").first.get_attribute("title") in LONG  # a name that is cut there can be read all the same
    page.close()
