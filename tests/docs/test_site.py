"""docs/ as a site: it builds without a warning, every page is reached, and no page asks another host for anything."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from playwright.sync_api import sync_playwright

import grpo_tta
from tests.axe import SCHEMES, barriers, launched, overflow
from tests.report.test_browser import OFFLINE
from tests.report.test_browser import browser as chromium

ROOT = Path(__file__).parents[2]
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
OUTSIDE = re.compile(r"^\s*(?:https?:)?//", re.IGNORECASE)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    quiet = {"NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | quiet)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Requests(HTMLParser):
    """What a browser fetches by itself for a page: everything but the links that a reader follows."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._style = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        of = {name: value or "" for name, value in attributes}
        for name in ("src", "srcset", "poster", "data", "action", "xlink:href"):
            self._note(of.get(name, ""))
        if tag != "a":  # link, image, use, base ...
            rel = of.get("rel", "")
            if tag != "link" or not {"canonical", "alternate"} & set(rel.split()):
                self._note(of.get("href", ""))
        self._in_css(of.get("style", ""))
        self._style = tag == "style"

    def handle_data(self, data: str) -> None:
        if self._style:
            self._in_css(data)
            self._style = False

    def _note(self, address: str) -> None:
        if OUTSIDE.match(address):
            self.found.append(address)

    def _in_css(self, css: str) -> None:
        self.found += outside_css(css)


def outside_css(css: str) -> list[str]:
    addresses = [a or b for a, b in re.findall(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)", css)]
    return [address for address in addresses if OUTSIDE.match(address)]


def requests(html: str) -> list[str]:
    parser = Requests()
    parser.feed(html)
    return parser.found


def test_no_page_asks_another_host_for_anything(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 18
    assert not {str(page.relative_to(site)): found for page in pages if (found := requests(page.read_text()))}
    sheets = sorted(site.rglob("*.css"))
    assert sheets
    assert not {sheet.name: found for sheet in sheets if (found := outside_css(sheet.read_text()))}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """Where the site is served on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.browser
def test_a_browser_asks_this_host_alone_and_the_search_finds(site: Path, address: str) -> None:
    """Scripts, fonts and the search's worker included. No page is wider than its window."""
    asked: list[str] = []
    wrong: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu", *OFFLINE[1:]])
        visited = sorted(site.rglob("index.html"))
        for width in (390, 1280):  # a window of its own for each: to resize one under a page now and then never ended
            context = browser.new_context(viewport={"width": width, "height": 900})
            context.on("request", lambda request: asked.append(request.url))
            context.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
            page = context.new_page()
            page.set_default_timeout(60_000)
            for file in visited:
                page.goto(f"{address}{file.relative_to(site).parent.as_posix()}/", wait_until="load")
                with contextlib.suppress(PlaywrightTimeout):  # a busy machine lays the page out later
                    page.wait_for_function(f"() => {WIDER} <= 0", timeout=5_000)
                wider = page.evaluate(WIDER)
                assert wider <= 0, f"{file.parent.name} is {wider} pixels wider than {width}"
        page.goto(address)
        page.locator(".md-search__input").click()
        page.keyboard.type("leaderboard")
        page.wait_for_selector(".md-search-result__item")
        assert "leaderboard/" in (page.locator(".md-search-result__link").first.get_attribute("href") or "")
        browser.close()
    assert len(visited) > 20
    assert any("search" in url for url in asked)
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert wrong == []


def test_no_page_needs_what_the_theme_would_fetch_from_outside(site: Path) -> None:
    """The theme's script knows two addresses: of mermaid, for diagrams, and of the repository's host, for its stars."""
    for page in site.rglob("*.html"):
        html = page.read_text()
        assert 'class="mermaid"' not in html
        assert 'data-md-component="source"' not in html
        assert "mathjax" not in html.lower()
        assert "katex" not in html.lower()


def test_every_page_is_in_the_navigation_once() -> None:
    def files(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        parts = entry.values() if isinstance(entry, dict) else entry
        return [file for part in parts for file in files(part)]

    # the configuration is read as plain data, so it may name no Python object
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    written = [page.name for page in (ROOT / "docs").glob("*.md")]
    assert sorted(files(nav)) == sorted([*written, "walkthrough.md"])  # the notebook becomes a page


def test_the_api_page_shows_every_public_name_with_its_text(site: Path) -> None:
    html = (site / "api" / "index.html").read_text()
    names = [name for name in grpo_tta.__all__ if not name.startswith("__")]
    assert names
    for name in names:
        assert f'id="grpo_tta.{name}"' in html, f"{name} is public and has no entry, perhaps no docstring"
    assert "Adapts to each image alone and classifies it" in html  # the text of GRPOTTA.predict


def test_the_notebook_is_a_page_with_its_outputs(site: Path) -> None:
    html = (site / "walkthrough" / "index.html").read_text()
    assert html.count('src="data:image/png') == 2
    assert "36 forward and 4 backward passes" in html
    assert html.count("<table") >= 2
    assert 'href="walkthrough/"' in (site / "index.html").read_text()
    assert not list(site.rglob("*.ipynb"))
    assert not list(site.rglob("*.py"))


def test_code_and_tables_are_rendered(site: Path) -> None:
    html = (site / "method" / "index.html").read_text()
    assert html.count("<table>") >= 2
    assert "```" not in html
    assert "|---" not in html


@pytest.mark.parametrize(
    ("html", "found"),
    [
        ('<a href="https://example.org">x</a><img src="a.png">', []),
        ('<script src="https://example.org/a.js"></script>', ["https://example.org/a.js"]),
        ('<link rel="stylesheet" href="//example.org/a.css">', ["//example.org/a.css"]),
        ('<link rel="canonical" href="https://example.org/">', []),
        ("<style>@import 'http://example.org/a.css'; p { background: url(b.png) }</style>", ["http://example.org/a.css"]),
        ("<p style=\"background: url('https://example.org/c.png')\">", ["https://example.org/c.png"]),
        ('<img srcset="https://example.org/2x.png 2x">', ["https://example.org/2x.png 2x"]),
    ],
)
def test_what_counts_as_a_request(html: str, found: list[str]) -> None:
    assert requests(html) == found


@pytest.mark.browser
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_pages_have_no_barrier(site: Path, scheme: str) -> None:
    with launched() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
        for name in ("index.html", "api/index.html", "method/index.html", "page-and-service/index.html"):
            page.goto((site / name).as_uri())
            assert not barriers(page)
            assert overflow(page) <= 0
            light = page.evaluate("getComputedStyle(document.body).getPropertyValue('color-scheme')") != "dark"
            assert light == (scheme == "light")
        page.close()
