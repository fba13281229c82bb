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


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pages")
    write_report([write_run(folder / "run", 0)], folder / "report", console=QUIET)
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
