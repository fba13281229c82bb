"""Every code block of the README and of docs/ is run, page by page and top to bottom, in a folder with a few images.

Python blocks share one namespace a page. Shell commands that begin with `grpo-tta` are run (with small limits, in this
process; `serve` and `app` beside it), and so is `curl`; `python -m pip install` is what `test_packaging` and .ci/run do.
Anything else must say in a comment above its block why it is not run here: `<!-- not run: REASON -->`.
"""

from __future__ import annotations

import re
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

import pytest
from PIL import Image

from grpo_tta.cli.main import main
from grpo_tta.data import nano
from tests import families

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "docs").glob("*.ipynb"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--\s*(.*?)\s*-->", re.DOTALL)
COMMENTS_ABOVE = re.compile(r"(?:<!--(?:(?!-->).)*-->\s*)+\Z", re.DOTALL)
EXEMPT = re.compile(r"not run: (.{10,})", re.DOTALL)
NO_CODE = {"text", "json"}
SERVED = "127.0.0.1:8000"


@dataclass(frozen=True)
class Block:
    line: int
    language: str
    code: str
    exempt: str | None


def blocks(text: str) -> list[Block]:
    """The code blocks of a page; `exempt` is the reason why one is not run, from the comments right above it."""
    found = []
    for match in FENCE.finditer(text):
        above = COMMENTS_ABOVE.search(text, 0, match.start())
        reasons = [reason[1] for comment in COMMENT.findall(above[0]) if (reason := EXEMPT.fullmatch(comment))] if above else []
        line = text[: match.start()].count("\n") + 2
        found.append(Block(line, match[1], match[2], reasons[0] if reasons else None))
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
            pytest.fail(f"{where}: {words[0]} is not run here; say why above the block: <!-- not run: REASON -->")
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
    """In a folder with image.png, photos/, my_photos/ (a folder a class), and my-clip/, a random model of transformers."""
    folder = tmp_path_factory.mktemp("docs")
    families.write("transformers-clip", folder / "my-clip")
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


def test_there_are_pages_and_a_notebook() -> None:
    names = {page.stem for page in PAGES}
    assert names >= {
        "README",
        "add-a-data-set",
        "adapt-your-own",
        "api",
        "cost",
        "design",
        "enter-your-method",
        "method",
        "presets",
        "protocols",
        "quick-start",
        "reproduce",
    }
    assert [notebook.name for notebook in NOTEBOOKS] == ["walkthrough.ipynb"]
    run = [block for page in PAGES for block in blocks(page.read_text()) if not block.exempt and block.language not in NO_CODE]
    assert len(run) > 40


def test_a_page_that_is_not_run_at_all_is_one_that_cannot_be() -> None:
    """Benchmarks and clusters are not on this machine; every other page has a block that runs, or none at all."""
    silent = set()
    for page in PAGES:
        found = [block for block in blocks(page.read_text()) if block.language not in NO_CODE]
        if found and all(block.exempt for block in found):
            silent.add(page.stem)
    assert silent == {"benchmarks", "evidence", "imagenet-sample", "scaling", "search", "table"}


def anchors(page: Path) -> set[str]:
    """What GitHub and MkDocs make of a page's headings."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE):
        text = re.sub(r"[^\w\s-]", "", heading.lower().strip())
        found.add(re.sub(r"\s+", "-", text))
    return found


def test_links_lead_somewhere() -> None:
    """To a file that is there and, in a page, to a heading that is there."""
    count = 0
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "perf" / "README.md"]:
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", FENCE.sub("", page.read_text())):
            if target.startswith(("http:", "https:")):
                continue
            count += 1
            file = page.parent / target if target else page
            assert file.exists(), f"{page.name}: {target}"
            if anchor:
                assert anchor in anchors(file), f"{page.name}: {target}#{anchor}"
    assert count > 60


def test_pages_link_inside_the_documentation_or_to_the_web() -> None:
    """The site holds docs/ alone: a link out of it would lead nowhere there."""
    for page in (ROOT / "docs").glob("*.md"):
        assert "](../" not in FENCE.sub("", page.read_text()), page.name


def test_what_is_exempt_says_why() -> None:
    text = (
        "x\n\n<!-- not run: it needs the moon -->\n<!-- test -->\n```bash\nfly\n```\n\n"
        "```bash\nfly\n```\n\n<!-- not run: why -->\n```bash\nfly\n```\n\n"
        "<!-- not run: it needs the moon -->\nText between.\n```bash\nfly\n```\n"
    )
    found = blocks(text)
    assert [block.exempt for block in found] == ["it needs the moon", None, None, None]  # too short a reason is none
    assert (found[0].line, found[1].line) == (6, 10)


def test_the_readme_names_one_test_command_that_ci_can_find() -> None:
    """.ci/run takes the block after the comment `test`, by the same two marks."""
    readme = (ROOT / "README.md").read_text()
    assert readme.count("<!-- test -->") == 1
    (block,) = [block for block in blocks(readme) if "pytest" in block.code]
    assert block.exempt
    ran = subprocess.run(
        "sed -n '/<!-- test -->/,/^```$/p' README.md | sed -e '/<!--/d' -e '/^```/d'",
        shell=True, capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    assert ran.stdout == block.code
    assert "sed -n '/<!-- test -->/,/^```$/p' README.md | sed -e '/<!--/d' -e '/^```/d'" in (ROOT / ".ci" / "run").read_text()
    for step in ('pip install -e ".[dev]"', "ruff check .", "ruff format --check .", "mypy", "lint-imports", "pytest -n 2"):
        assert step in block.code


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
