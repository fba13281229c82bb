"""The shape of the code: imports go downward, the core stays small, and the words that were given up stay away."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "grpo_tta"
FROZEN = {PACKAGE / "data" / f"{name}.py" for name in ("nano", "scenes", "renditions", "corruptions")}
"""The nano suite: a change would void every table."""

FEW_PARAMETERS = ("engine", "method", "cli", "cluster", "service", "app")
RETIRED_NAMES = {
    "refer", "propose", "Proposal", "read_out", "policy_gain", "climb", "stepped", "cuts", "Plan", "Tower", "tower", "prefix",
    "pieces", "Observation", "look", "observe", "view_sharpness", "cli_faces", "peer",
}  # fmt: skip
"""Each has given way to the word of the field."""
_COUNTED = "images|passes|milliseconds|ms|seconds|MB|GB|views|copies|rows|steps|forwards|backwards|times"
_OF = "an image|a task|a seed|a class|a method|a batch|a worker|an actor|an item|a corruption"
RETIRED_PHRASES = {
    "told": r"told",
    "at a loss": r"at a loss",
    "read off": r"reads? off",
    "common opinion": r"common opinion",
    "could not be had": r"(could not|cannot|can not|can) be had",
    "a rate without per": rf"({_COUNTED}) ({_OF})",
}


def test_imports_go_downward() -> None:
    """The contracts are in pyproject.toml."""
    command = [
        sys.executable,
        "-c",
        "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_top_of_the_package_is_small() -> None:
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= 6


def test_the_method_fits_a_few_screens() -> None:
    assert len((PACKAGE / "method" / "grpo.py").read_text().splitlines()) <= 260


@pytest.mark.parametrize("room", FEW_PARAMETERS)
def test_no_function_takes_more_than_eight_parameters(room: str) -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path, tree in trees(PACKAGE / room)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and len(parameters(node)) > 8
    ]
    assert not long, "\n".join(long)


def test_retired_names_are_defined_nowhere() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path, tree in trees(PACKAGE)
        if path not in FROZEN
        for line, name in definitions(path, tree)
        if name.lstrip("_") in RETIRED_NAMES
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("phrase", RETIRED_PHRASES)
def test_retired_phrases_are_written_nowhere(phrase: str) -> None:
    pattern = re.compile(RETIRED_PHRASES[phrase].join((r"\b(?:", r")\b")).replace(" ", r"\s+"), re.IGNORECASE)
    found = []
    for path in pages():
        text = path.read_text()
        for match in pattern.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"{path.relative_to(ROOT)}:{line} {' '.join(match[0].split())}")
    assert not found, "\n".join(found)


def test_the_search_finds_what_it_looks_for() -> None:
    """Guards the tests above against searching in vain."""
    source = "class Tower:\n    prefix: int\n    def climb(self, cuts, *, look=1):\n        self.stepped = 1\n"
    names = [name for _, name in definitions(Path("peer.py"), ast.parse(source))]
    assert names == ["peer", "Tower", "prefix", "climb", "self", "cuts", "look", "stepped"]
    assert not {name for _, name in definitions(Path("x.py"), ast.parse("m.named_modules(prefix='a')"))} & RETIRED_NAMES
    (function,) = ast.parse("def f(self, a, /, b, *c, d, **e): ...").body
    assert isinstance(function, ast.FunctionDef)
    assert parameters(function) == ["a", "b", "d", "c", "e"]
    assert re.search(RETIRED_PHRASES["a rate without per"], "64 passes an image")
    assert not re.search(RETIRED_PHRASES["a rate without per"], "64 passes per image")
    assert len(list(trees(PACKAGE))) > 100
    assert {ROOT / "README.md", PACKAGE / "app" / "templates" / "app_trace.html"} <= set(pages())


def trees(folder: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        yield path, ast.parse(path.read_text())


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Names of the parameters, but for self and cls."""
    a = node.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    return [arg.arg for arg in every if arg.arg not in ("self", "cls")]


def definitions(path: Path, tree: ast.Module) -> list[tuple[int, str]]:
    """(line, name) of the module and of all its functions, classes, arguments and fields, in the order of the lines."""
    found = [(0, 0, path.parent.name if path.stem == "__init__" else path.stem)]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.append((node.lineno, node.col_offset, node.name))
        elif isinstance(node, ast.arg):
            found.append((node.lineno, node.col_offset, node.arg))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.append((node.lineno, node.col_offset, node.attr))
        if isinstance(node, ast.ClassDef):
            fields = [each for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)]
            found += [(each.lineno, each.col_offset, each.target.id) for each in fields]  # type: ignore[union-attr]
    return [(line, name) for line, _, name in sorted(found)]


def pages() -> list[Path]:
    """What people read: the source with its templates, the README, docs and examples."""
    source = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".html", ".css", ".md") and path not in FROZEN]
    written = [
        path for folder in ("docs", "examples") for kind in ("md", "ipynb", "py") for path in (ROOT / folder).rglob(f"*.{kind}")
    ]
    return sorted([*source, *written, ROOT / "README.md"])
