"""The HTML pages as a browser without a network shows them. Needs Chromium, and fails where there is none.

`CHROMIUM` names the program where it is not on the path.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from grpo_tta.bench.records import part_path, write_json, write_part
from grpo_tta.report.html import write_report
from tests.bench.test_sweep import write_sweep
from tests.report.test_report import METHODS, record, write_run

pytestmark = pytest.mark.browser
QUIET = Console(quiet=True)
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OFFLINE = ("--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--disable-component-update",
           "--disable-sync", "--disable-default-apps")  # fmt: skip

# What the page says of itself once it is drawn: images that did not load, whatever was fetched from elsewhere, text that
# sticks out of its box or lies on other text, and how far the page is wider than its window.
PROBE = """<script>window.addEventListener('load', () => {
  const box = e => e.getBoundingClientRect(), images = [...document.images];
  const cut = [...document.querySelectorAll('h1,h2,h3,p,td,th,dd .text,.tile .value')].filter(e => {
    const inner = e.querySelector('table') === null && e.closest('.scroll') === null && e.closest('.axis th.name') === null;
    return inner && (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== 'inline');
  });
  const sections = [...document.querySelectorAll('section, header, footer, article, .tile')].filter(e => {
    const next = e.nextElementSibling;
    return next && box(next).top < box(e).bottom - 1 && box(next).left < box(e).right - 1 && box(e).left < box(next).right - 1;
  });
  const out = document.createElement('pre');
  out.id = 'probe';
  out.textContent = JSON.stringify({
    images: images.length,
    broken: images.filter(i => !i.complete || i.naturalWidth === 0).length,
    hidden: images.filter(i => !i.closest('[hidden]') && (box(i).width < 20 || box(i).height < 20)).length,
    plots: images.filter(i => i.src.startsWith('data:image/svg')).map(i => [box(i).width, box(i).height]),
    fetched: performance.getEntriesByType('resource').map(r => r.name).filter(n => !n.startsWith('data:')),
    cut: cut.map(e => e.textContent.slice(0, 60)),
    overlaps: sections.map(e => (e.id || e.className) + ' over ' + (e.nextElementSibling.id || e.nextElementSibling.className)),
    wider: document.documentElement.scrollWidth - window.innerWidth,
    episodes: document.querySelectorAll('.episode:not([hidden])').length,
  });
  document.body.appendChild(out);
});</script>"""


def browser() -> str:
    """Never a skip: a page that nobody looked at has not been tested."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    assert found, (
        "Chromium is missing: install it (Debian: apt-get install chromium), or leave these tests out with -m 'not browser'."
    )
    return found


def chromium(folder: Path, page: Path, width: int, height: int, *arguments: str) -> str:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars", *OFFLINE]
    flags += [f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}", *arguments, page.as_uri()]
    return subprocess.run([browser(), *flags], check=True, capture_output=True, text=True, timeout=120).stdout


def probe(folder: Path, page: Path, width: int) -> dict[str, Any]:
    """What `PROBE` says of a page in a window of a width."""
    probed = folder / "probed.html"
    probed.write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    found = re.search(r'<pre id="probe">(.*?)</pre>', chromium(folder, probed, width, 900, "--dump-dom"), re.S)
    assert found, "the page was not drawn"
    return json.loads(html.unescape(found[1]))


def shot(folder: Path, page: Path, width: int, height: int = 5000) -> np.ndarray:
    image = folder / f"{page.parent.name}-{width}.png"
    chromium(folder, page, width, height, f"--screenshot={image}")
    return np.asarray(Image.open(image).convert("RGB")).astype(int)


def has_colour(pixels: np.ndarray, colour: tuple[int, int, int], at_least: int) -> bool:
    return int((abs(pixels - colour).max(-1) < 6).sum()) >= at_least


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    write_report([write_run(folder / f"run{seed}", seed) for seed in (0, 1)], folder / "report", console=QUIET)
    write_report([write_sweep(folder / "x")], folder / "sweep", console=QUIET)
    return {name: folder / name / "report.html" for name in ("report", "sweep")}


@pytest.mark.parametrize("width", [500, 1200])
@pytest.mark.parametrize("name", ["report", "sweep"])
def test_everything_is_drawn_within_its_place_and_nothing_fetched(
    pages: dict[str, Path], tmp_path: Path, name: str, width: int
) -> None:
    drawn = probe(tmp_path, pages[name], width)
    assert drawn["fetched"] == []
    assert (drawn["broken"], drawn["hidden"]) == (0, 0)
    assert len(drawn["plots"]) == {"report": 3, "sweep": 2}[name]
    assert all(w > 200 and h > 100 for w, h in drawn["plots"])
    assert drawn["cut"] == []
    assert drawn["overlaps"] == []
    assert drawn["wider"] <= 0  # wide tables scroll in their own boxes
    assert drawn["episodes"] == {"report": 8, "sweep": 0}[name]


def test_the_report_shows_bars_and_episodes(pages: dict[str, Path], tmp_path: Path) -> None:
    pixels = shot(tmp_path, pages["report"], 1200)
    for colour in ((194, 65, 12), (37, 99, 235), (154, 165, 177)):  # the bars of reference, best baseline and zero-shot
        assert has_colour(pixels, colour, 300)
    for edge in ((21, 128, 61), (185, 28, 28)):  # the edges of repaired and of broken episodes
        assert has_colour(pixels, edge, 300)
    assert (pixels.max(-1) < 250).any(1).mean() > 0.3


def test_the_sweep_shows_its_curve(pages: dict[str, Path], tmp_path: Path) -> None:
    assert has_colour(shot(tmp_path, pages["sweep"], 1200, 1500), (194, 65, 12), 500)


def test_a_page_that_fetches_or_lacks_an_image_is_caught(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<html><body><img src="http://example.org/x.png" alt="x"><p>hello</p></body></html>')
    drawn = probe(tmp_path, page, 500)
    assert drawn["fetched"] == ["http://example.org/x.png"]
    assert drawn["broken"] == 1


FILTERED = """<script>window.addEventListener('load', () => {
  const form = document.getElementById('filter'), shown = () => [...document.querySelectorAll('.episode:not([hidden])')];
  const out = {ours: shown().length, visible: !form.hidden};
  const set = (name, value) => { form.elements[name].value = value; form.dispatchEvent(new Event('change')); };
  set('outcome', 'broken');
  out.broken = shown().map(card => card.dataset.outcome);
  set('outcome', ''); set('method', '');
  out.all = shown().length;
  set('order', 'confidence');
  out.sorted = shown().map(card => Number(card.dataset.confidence));
  set('task', 'photos');
  out.tasks = [...new Set(shown().map(card => card.dataset.task))];
  out.count = form.querySelector('output').value;
  const pre = document.createElement('pre');
  pre.id = 'probe';
  pre.textContent = JSON.stringify(out);
  document.body.appendChild(pre);
});</script>"""


def test_episodes_can_be_filtered_and_sorted(pages: dict[str, Path], tmp_path: Path) -> None:
    page = tmp_path / "filtered.html"
    page.write_text(pages["report"].read_text().replace("</body>", FILTERED + "</body>"))
    found = re.search(r'<pre id="probe">(.*?)</pre>', chromium(tmp_path, page, 1280, 900, "--dump-dom"), re.S)
    assert found
    done = json.loads(html.unescape(found[1]))
    assert (done["ours"], done["visible"]) == (8, True)
    assert done["broken"] == ["broken"] * 2
    assert done["all"] > 8
    assert done["sorted"] == sorted(done["sorted"], reverse=True)
    assert done["tasks"] == ["photos"]
    assert done["count"].endswith(f"of {done['all']} shown")


def test_a_dark_page_is_dark(pages: dict[str, Path], tmp_path: Path) -> None:
    image = tmp_path / "dark.png"
    chromium(tmp_path, pages["report"], 1280, 900, f"--screenshot={image}", "--blink-settings=preferredColorScheme=0")
    pixels = np.asarray(Image.open(image).convert("RGB")).astype(int)
    assert np.median(pixels) < 60
    assert (pixels.max(-1) > 180).any()  # and its text is light


def many_tasks(folder: Path) -> Path:
    """A run of more tasks than fit side by side, each with a long name, and a dozen methods."""
    names = [f"a-task-of-a-long-name-{i:02d}" for i in range(20)]
    methods = [*METHODS, *(f"a-method-{i}" for i in range(9))]
    run = write_run(folder, 0)
    info = json.loads((run / "run.json").read_text())
    for path in (run / "records").iterdir():
        path.unlink()
    given = [record("sketch", "grpo-tta", 0, i, "1") for i in range(4)]
    for name in names:
        rows = [replace(r, task=name, method=method) for method in methods for r in given]
        write_part(part_path(run, name, 0), rows)
    sketch = info["classes"]["sketch"]
    info |= {"tasks": dict.fromkeys(names, 4), "sources": {}, "classes": dict.fromkeys(names, sketch), "templates": {}}
    write_json(run / "run.json", info)
    return run


def test_no_table_of_many_tasks_is_cut(tmp_path: Path) -> None:
    write_report([many_tasks(tmp_path / "run")], tmp_path / "out", console=QUIET)
    page = tmp_path / "probed.html"
    script = """<script>window.addEventListener('load', () => {
      const cut = [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1);
      const pre = document.createElement('pre');
      pre.id = 'probe';
      pre.textContent = JSON.stringify(cut.map(e => e.ariaLabel));
      document.body.appendChild(pre);
    });</script>"""
    page.write_text((tmp_path / "out" / "report.html").read_text().replace("</body>", script + "</body>"))
    found = re.search(r'<pre id="probe">(.*?)</pre>', chromium(tmp_path, page, 1280, 900, "--dump-dom"), re.S)
    assert found
    assert json.loads(html.unescape(found[1])) == []
