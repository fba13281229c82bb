"""Pages in Chromium for tests: with a keyboard, and as axe-core judges them. axe-core comes with its package, so no network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from tests.report.test_browser import OFFLINE
from tests.report.test_browser import browser as chromium

WIDTHS = ((1280, 900), (390, 844))
SCHEMES = ("light", "dark")


@contextmanager
def launched() -> Iterator[Browser]:
    """The system's Chromium, which reaches this machine alone."""
    with sync_playwright() as playwright:
        offline = [flag.replace("~NOTFOUND", "~NOTFOUND, EXCLUDE 127.0.0.1") for flag in OFFLINE]
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu", *offline])
        yield browser
        browser.close()


def barriers(page: Page) -> list[str]:
    """What axe-core finds more than minor on a page as it stands: `landmark-unique`, say, is moderate."""
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']} ({each['impact']}): {node['html'][:200]}"
        for each in found
        if each["impact"] != "minor"
        for node in each["nodes"]
    ]


def overflow(page: Page) -> int:
    """How many pixels the document is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
