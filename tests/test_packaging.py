"""Sdist and wheel hold what they must; the installation of the wheel into an empty environment is in .ci/run."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sdist of the working tree, and a wheel made from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_sdist_holds_sources_tests_and_documents(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "docs/method.png"}
    assert names >= wanted | {"src/grpo_tta/method/grpo.py", "tests/conftest.py", "perf/service_load.py"}
    assert not [name for name in names if name.startswith(("runs/", ".git/", "build/")) or name.endswith(".pyc")]


def test_the_wheel_holds_every_file_of_the_package(built: Path) -> None:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith("METADATA"))
    package = ROOT / "src"
    expected = {str(p.relative_to(package)) for p in package.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert {name for name in names if ".dist-info" not in name} == expected
    assert {"grpo_tta/py.typed", "grpo_tta/app/templates/app.css"} <= names
    assert path.stat().st_size < 10e6
    told = Parser().parsestr(metadata)
    assert told["Version"] == PROJECT["version"]
    assert set(told.get_all("Provides-Extra") or ()) == set(PROJECT["optional-dependencies"])
    assert {"app", "serve", "dev"} <= set(PROJECT["optional-dependencies"])


def test_versions_agree() -> None:
    assert version("grpo-tta") == PROJECT["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
    assert re.search(rf"^## {re.escape(PROJECT['version'])}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_every_shipped_model_has_a_card() -> None:
    models = [p for p in (ROOT / "src" / "grpo_tta" / "models").iterdir() if p.is_dir()]
    assert models
    for model in models:
        card = (model / "README.md").read_text()
        for word in ("Data", "Training", "Limits", "Licence"):
            assert f"**{word}**" in card
