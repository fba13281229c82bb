"""No command imports what it does not use. The cost of a short command is that of its imports; no clock is judged here."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_tta.cli.loading import loading

ELSEWHERE = {
    "ray",
    "gradio",
    "fastapi",
    "uvicorn",
    "datasets",
    "sklearn",
    "grpo_tta.service",
    "grpo_tta.app",
    "grpo_tta.cluster",
}
"""What only the cluster, the service and the web page need."""
MODELS = {"open_clip", "transformers", "timm", "grpo_tta.backbones.open_clip"}
OTHER_MODELS = {"grpo_tta.backbones.transformers", "grpo_tta.backbones.classifiers"}
METHODS = {"grpo_tta.baselines", "grpo_tta.data.tasks", "grpo_tta.bench.runner"}


def imported(words: list[str], folder: Path) -> set[str]:
    """The modules of a command that succeeds."""
    code = f"""
import sys
from grpo_tta.cli.main import main
sys.argv = ["grpo-tta", *{words!r}]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
open("modules.txt", "w").write("\\n".join(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return set((folder / "modules.txt").read_text().splitlines())


def test_predict(awkward_folder: Path, tmp_path: Path) -> None:
    found = imported(["predict", str(awkward_folder / "a.jpg"), "--labels", "star,heart"], tmp_path)
    # open_clip itself imports transformers, where that is installed; ours stays out, and so do transformers' models
    unused = {"pandas", "matplotlib", "scipy", "grpo_tta.report.tables", "transformers.models.clip.modeling_clip"}
    assert sorted(found & (ELSEWHERE | METHODS | OTHER_MODELS | unused)) == []
    assert {"torch", "open_clip"} <= found


def test_bench_and_report(tmp_path: Path) -> None:
    bench = ["bench", "--methods", "view-mean", "--tasks", "source", "--limit", "1", "--out", "run"]
    assert sorted(imported(bench, tmp_path) & (ELSEWHERE | OTHER_MODELS | {"matplotlib", "grpo_tta.report.html"})) == []
    report = imported(["report", "run", "--out", "report"], tmp_path)
    assert sorted(report & (ELSEWHERE | MODELS | {"grpo_tta.baselines", "grpo_tta.classifier"})) == []


def test_lists_need_no_model(tmp_path: Path) -> None:
    unused = {"torchvision", "pandas", "matplotlib", "grpo_tta.classifier", "grpo_tta.baselines"}
    assert sorted(imported(["datasets"], tmp_path) & (ELSEWHERE | MODELS | unused)) == []


def test_nothing_is_searched_for_garbage_while_it_is_loaded() -> None:
    gc.collect()  # what `loading` collects first may free objects that were frozen before
    before = gc.get_freeze_count()
    with loading():
        assert not gc.isenabled()
        made = [[number] for number in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(made)
    gc.unfreeze()


def test_an_error_while_loading_leaves_the_collector_on() -> None:
    with pytest.raises(ValueError, match="no"), loading():
        raise ValueError("no")
    assert gc.isenabled()
    gc.unfreeze()
