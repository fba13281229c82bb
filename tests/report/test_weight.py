"""The page stays light: at 5,000 rows on own photographs it holds images, and at most 6 MB."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from grpo_tta.bench.records import read_records
from grpo_tta.report.gallery import WANTED
from grpo_tta.report.html import write_report
from tests.scripts import load_script

MOST = 6_000_000


def test_the_page_of_5000_rows_is_light(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The photographs are noise, of which JPEG makes the largest files."""
    run = load_script("perf/report_page.py", monkeypatch).write_run(tmp_path, 5000)
    assert len(read_records([run])) == 5000
    page = write_report([run], tmp_path / "out", console=Console(quiet=True))
    assert page.stat().st_size <= MOST
    text = page.read_text()
    shown = re.findall(r'<article class="episode \w+" data-method="grpo-tta" .*?</article>', text, re.S)
    assert len(shown) == 3 * WANTED
    assert all(episode.count('src="data:image/jpeg') == 4 for episode in shown)  # the image and three crops
    assert len(set(re.findall(r'data-method="([^"]+)"', text))) == 10


@pytest.mark.browser
def test_the_script_measures_size_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("perf/report_page.py", monkeypatch)
    script.main(["--rows", "40", "--repeats", "1", "--json", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert found == json.loads(capsys.readouterr().out)
    assert found["rows"] == 40
    assert found["megabytes"] > 0.1
    assert found["write_seconds"] > 0
    assert found["open_milliseconds"] > 0
