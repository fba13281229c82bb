"""Sdist, wheel and the files around them hold what they must; the wheel is installed into an empty environment by .ci/run."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

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


def tracked() -> set[str]:
    """Files of the repository that git knows, or, without a repository, none."""
    done = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    return set(done.stdout.split("\n")) - {""} if done.returncode == 0 else set()


def test_the_sdist_holds_sources_tests_and_documents(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "docs/method.png"}
    wanted |= {"mkdocs.yml", "examples/predict.py", "perf/README.md", ".ci/run", ".pre-commit-config.yaml"}
    assert names >= wanted | {"src/grpo_tta/method/grpo.py", "tests/conftest.py", "perf/service_load.py"}
    assert not tracked() - names, "what git knows and the sdist lacks: the tests could not run from it"
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
    assert path.stat().st_size < 11e6  # two models are nine of them
    written = Parser().parsestr(metadata)
    assert written["Version"] == PROJECT["version"]
    assert set(written.get_all("Provides-Extra") or ()) == set(PROJECT["optional-dependencies"])
    assert {"app", "serve", "docs", "dev"} <= set(PROJECT["optional-dependencies"])
    assert (ROOT / "README.md").read_text().strip() in metadata, "the README is the page of the package"


def test_dev_brings_every_other_extra() -> None:
    """Tests build the site, start the page, the service and Ray: none of them may be left out."""
    extras = PROJECT["optional-dependencies"]
    (own,) = [line for line in extras["dev"] if line.startswith("grpo-tta[")]
    assert set(own[len("grpo-tta[") : -1].split(",")) == set(extras) - {"dev"}


def test_every_command_of_the_project_leads_to_a_function() -> None:
    for target in PROJECT["scripts"].values():
        module, _, name = target.partition(":")
        assert callable(getattr(import_module(module), name))


def test_the_table_of_extras_in_the_quick_start_is_whole() -> None:
    text = (ROOT / "docs" / "quick-start.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(PROJECT["optional-dependencies"])


def test_every_folder_of_tests_has_a_budget_and_the_sum_is_under_twenty_minutes() -> None:
    rows = re.findall(r"^\| (`tests/.+?) \| ([\d.]+) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert rows
    named = {path for row, _ in rows for path in re.findall(r"`(tests/[^`]+)`", row)}
    folders = {f"tests/{path.name}" for path in (ROOT / "tests").iterdir() if any(path.glob("**/test_*.py"))}
    assert not folders - named, "without a budget"
    missing = {path for path in named if path.startswith("tests/") and not list(ROOT.glob(path))}
    assert missing <= {"tests/config"}, "a budget for nothing"
    assert sum(float(minutes) for _, minutes in rows) < 18, "building and installing take the rest"


def test_the_workflow_and_the_hooks_run_what_is_here() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert job["runs-on"].startswith("ubuntu")
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    (python,) = [step["with"]["python-version"] for step in job["steps"] if "python-version" in step.get("with", {})]
    assert PROJECT["requires-python"] == f">={python}"
    (hooks,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert hooks["repo"] == "local"
    assert [(hook["entry"].split()[0], hook["language"]) for hook in hooks["hooks"]] == [
        ("ruff", "system"),
        ("ruff", "system"),
        ("mypy", "system"),
    ]


@pytest.mark.parametrize("name", ["bug", "idea", "enter-a-method"])
def test_issue_templates_are_forms(name: str) -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    assert {"name", "description", "body"} <= set(form)
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields) > 2


@pytest.mark.parametrize("given", [True, False])
def test_ci_names_the_shared_folder_beside_the_checkout(tmp_path: Path, given: bool) -> None:
    """The lines of .ci/run that set the variable, run by themselves beside a folder `shared`."""
    script = (ROOT / ".ci" / "run").read_text()
    (lines,) = re.findall(r'^if \[ -z "\$\{GRPO_TTA_SHARED.*?^fi$', script, re.MULTILINE | re.DOTALL)
    (tmp_path / "checkout").mkdir()
    (tmp_path / "shared").mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "GRPO_TTA_SHARED"}
    if given:
        environment["GRPO_TTA_SHARED"] = "elsewhere"
    command = f'set -euo pipefail\nhere={tmp_path}/checkout\n{lines}\nprintf %s "${{GRPO_TTA_SHARED:-none}}"'
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, check=True).stdout
    assert found == ("elsewhere" if given else str(tmp_path / "shared"))
    (tmp_path / "shared").rmdir()
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, check=True).stdout
    assert found == ("elsewhere" if given else "none")


def test_versions_agree() -> None:
    assert version("grpo-tta") == PROJECT["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
    assert re.search(rf"^## {re.escape(PROJECT['version'])}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_every_shipped_model_has_a_card() -> None:
    models = [p for p in (ROOT / "src" / "grpo_tta" / "models").iterdir() if p.is_dir()]
    assert {model.name for model in models} == {"nano-clip", "photo-clip"}
    for model in models:
        card = (model / "README.md").read_text()
        for word in ("Data", "Training", "Accuracy", "Limits", "Licence"):
            assert f"**{word}**" in card
        (recipe,) = re.findall(r"`python (recipes/\S+)", card)
        assert (ROOT / recipe).is_file()
        with safe_open(model / "open_clip_model.safetensors", "np") as weights:
            count = sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
        (written,) = re.findall(r"^\| parameters \| ([\d.]+) million \|$", card, re.MULTILINE)
        assert f"{count / 1e6:.2f}" == written
