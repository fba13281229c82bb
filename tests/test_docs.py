"""Every code block of the README and of docs/ is run, page by page and top to bottom, in a folder with a few images.

Python blocks share one namespace a page. Shell commands that begin with `grpo-tta` are run (with small limits, in this
process; `serve` and `app` beside it), and so is `curl`; `python -m pip install` is what `test_packaging` and .ci/run do.
Anything else must say in the line above its block why it is not run here: *Not run by the tests: REASON.*
"""

from __future__ import annotations

import re
import runpy
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from grpo_tta.cli.main import main
from grpo_tta.data import nano

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "docs").glob("*.ipynb"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXEMPT = re.compile(r"^\*Not run by the tests: (.{10,})\*$")
NO_CODE = {"text", "json"}
SERVED = "127.0.0.1:8000"


@dataclass(frozen=True)
class Block:
    line: int
    language: str
    code: str
    exempt: str | None


def blocks(text: str) -> list[Block]:
    """The code blocks of a page; `exempt` is the reason why one is not run."""
    found = []
    for match in FENCE.finditer(text):
        above = [line for line in text[: match.start()].splitlines() if line.strip() and not line.startswith("<!--")]
        reason = EXEMPT.match(above[-1]) if above else None
        line = text[: match.start()].count("\n") + 2
        found.append(Block(line, match[1], match[2], reason[1] if reason else None))
    return found


def commands(code: str) -> list[list[str]]:
    lines = code.replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [shlex.split(part, comments=True) for part in parts if shlex.split(part, comments=True)]


def smaller(words: list[str]) -> list[str]:
    """The same command on a few images."""
    if words[1] not in ("demo", "bench") or "--data" in words:
        return words
    words = list(words)
    if "--limit" in words:
        at = words.index("--limit") + 1
        words[at] = str(min(int(words[at]), 8))
    else:
        words += ["--limit", "2"]
    if "--tasks" not in words:
        words += ["--tasks", "source,fog"]
    if words[1] == "bench" and "--methods" not in words:
        words += ["--methods", "zero-shot,grpo-tta"]
    for option, few in (("--tasks", "source,fog"), ("--methods", "zero-shot,grpo-tta,tent")):
        if option in words and words[words.index(option) + 1] == "all":
            words[words.index(option) + 1] = few
    return words


class Shell:
    """Runs the commands of the pages in one folder; a command that was run already is not run again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch, self._done = monkeypatch, set[tuple[str, ...]]()
        self._beside: list[subprocess.Popen[bytes]] = []
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    def run(self, words: list[str], where: str) -> None:
        words = [word.replace(SERVED, f"127.0.0.1:{self.port}") for word in words]
        if words[:4] == ["python", "-m", "pip", "install"]:
            return
        if words[0] == "curl":
            done = subprocess.run(words, capture_output=True, text=True)
            assert done.returncode == 0, f"{where}: {done.stdout}{done.stderr}"
        elif words[0] != "grpo-tta":
            pytest.fail(f"{where}: {words[0]} is not run here; say why above the block: *Not run by the tests: REASON*")
        elif words[1] in ("serve", "app"):
            self._start(words, where)
        elif tuple(words) not in self._done:
            self._done.add(tuple(words))
            self._patch.setattr(sys, "argv", smaller(words))
            with pytest.raises(SystemExit) as stop:
                main()
            assert not stop.value.code, f"{where}: {shlex.join(words)} ended with status {stop.value.code}"

    def _start(self, words: list[str], where: str) -> None:
        """A server beside the tests, until the page ends; the one before it makes room."""
        self.stop()
        words = [word for word in words if word != "8000"]
        words = [word for word in words if word != "--port"]
        command = [sys.executable, "-m", "grpo_tta", *words[1:], "--port", str(self.port)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self._beside.append(process)
        page = f"http://127.0.0.1:{self.port}/" + ("healthz" if words[1] == "serve" else "")
        for _ in range(600):
            assert process.poll() is None, f"{where}: {shlex.join(words)} ended at once"
            try:
                urllib.request.urlopen(page, timeout=30).close()
                return
            except urllib.error.URLError:
                time.sleep(0.2)
        pytest.fail(f"{where}: {shlex.join(words)} never answered")

    def stop(self) -> None:
        for process in self._beside:
            process.terminate()
            process.wait()
        self._beside.clear()


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """In a folder with image.png, photos/ and my_photos/, a folder a class."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "photos").mkdir()
    names = nano.TASKS["source"].classes
    for number, name in ((3, "a"), (4, "b")):
        Image.fromarray(nano.item("source", "tuning", number).image).save(folder / "photos" / f"{name}.png")
    Image.fromarray(nano.item("fog", "tuning", 3).image).save(folder / "image.png")
    for number in (3, 4, 27, 28):  # stars and hearts
        item = nano.item("rendition", "tuning", number)
        path = folder / "my_photos" / names[item.label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(item.image).save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        running = Shell(patch)
        patch.setenv("GRPO_TTA_SERVICE", f"http://127.0.0.1:{running.port}")
        yield running
        running.stop()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_code_block_runs(page: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("page")  # registered, because dataclasses look their module up
    monkeypatch.setitem(sys.modules, "page", module)
    for block in blocks(page.read_text()):
        where = f"{page.relative_to(ROOT)}:{block.line}"
        if block.exempt or block.language in NO_CODE:
            continue
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.code, page, "exec"), module.__dict__)
        elif block.language == "bash":
            for words in commands(block.code):
                shell.run(words, where)
        else:
            pytest.fail(f"{where}: a block of language {block.language!r} is neither run nor known to be no code")
    shell.stop()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda page: page.stem)
def test_notebooks_run_top_to_bottom(notebook: Path, shell: Shell) -> None:
    book = nbformat.read(notebook, as_version=4)
    assert not any(cell.get("outputs") for cell in book.cells), "clear the outputs before committing"
    NotebookClient(book, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(Path.cwd())}}).execute()
    assert any(cell.get("outputs") for cell in book.cells)


def test_there_are_pages_and_a_notebook() -> None:
    names = {page.stem for page in PAGES}
    assert names >= {
        "README",
        "quick-start",
        "method",
        "adapt-your-own",
        "protocols",
        "cost",
        "reproduce",
        "add-a-baseline",
        "design",
    }
    assert NOTEBOOKS
    assert sum(len(blocks(page.read_text())) for page in PAGES) > 25


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", FENCE.sub("", page.read_text())):
            if not target.startswith(("http:", "https:")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_what_is_exempt_says_why() -> None:
    text = "x\n\n*Not run by the tests: it needs the moon.*\n\n<!-- test -->\n```bash\nfly\n```\n\n```bash\nfly\n```\n"
    first, second = blocks(text)
    assert (first.exempt, second.exempt) == ("it needs the moon.", None)
    assert (first.line, second.line) == (7, 11)


def test_an_unknown_command_without_a_reason_fails(shell: Shell) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"page\.md:3: fly is not run here"):
        shell.run(["fly"], "page.md:3")


@pytest.mark.parametrize(
    ("line", "run"),
    [
        ("grpo-tta demo", "grpo-tta demo --limit 2 --tasks source,fog"),
        ("grpo-tta demo --limit 200 --out x", "grpo-tta demo --limit 8 --out x --tasks source,fog"),
        ("grpo-tta bench --data x", "grpo-tta bench --data x"),
        ("grpo-tta predict x \\\n  --json  # why", "grpo-tta predict x --json"),
    ],
)
def test_commands_are_made_small(line: str, run: str) -> None:
    (words,) = commands(line)
    assert smaller(words) == run.split()


def test_the_figure_can_be_drawn(tmp_path: Path) -> None:
    runpy.run_path(str(ROOT / "docs" / "make_figures.py"))["method_figure"](tmp_path / "method.png")
    drawn = np.asarray(Image.open(tmp_path / "method.png").convert("RGB"))
    assert drawn.shape == np.asarray(Image.open(ROOT / "docs" / "method.png").convert("RGB")).shape
    assert (drawn < 250).any(-1).mean() > 0.15
