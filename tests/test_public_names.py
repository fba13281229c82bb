"""What `from grpo_tta import …` offers, and what importing the package does not load."""

from __future__ import annotations

import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import grpo_tta
from grpo_tta.backbones.catalogue import KnownModel

NAMES = {
    "GRPOTTA", "adapt", "Reward", "Reference", "CandidateGroup", "Method", "list_models", "__version__", "GRPOSettings",
    "ViewSettings", "UserError", "Prediction", "Explanation", "load_backbone", "pipeline",
}  # fmt: skip


def test_importing_the_package_loads_nothing() -> None:
    code = "import grpo_tta, sys; grpo_tta.__version__; print([name for name in sys.modules if name.startswith('grpo_tta')])"
    code += "; assert not {'torch', 'numpy', 'pandas', 'PIL'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['grpo_tta']"


def test_the_names_are_these() -> None:
    assert set(grpo_tta.__all__) == set(dir(grpo_tta)) == NAMES
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = grpo_tta.nothing


def test_every_name_is_there_and_documented() -> None:
    for name in NAMES - {"__version__"}:
        value = getattr(grpo_tta, name)
        assert value.__name__ == ("known_models" if name == "list_models" else name)
        assert inspect.getdoc(value), name
        assert value.__module__.startswith("grpo_tta.")


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert grpo_tta.__version__ == project["version"]


def test_the_models_are_those_of_the_catalogue() -> None:
    models = grpo_tta.list_models()
    assert all(isinstance(model, KnownModel) for model in models)
    names = [model.name for model in models]
    assert len(names) == len(set(names))
    assert {"nano-clip", "photo-clip", "ViT-B-16/openai", "openai/clip-vit-base-patch16"} <= set(names)
    assert all(model.cached for model in models if model.name in ("nano-clip", "photo-clip"))
