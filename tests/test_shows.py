"""Promises to a user, each as a user would meet it: a reward of one's own everywhere, and old folders refused with a reason."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from grpo_tta import GRPOTTA, UserError
from grpo_tta.backbones.base import Backbone
from grpo_tta.bench.records import read_records
from grpo_tta.cli.main import app
from grpo_tta.data import nano

OWN = '''"""Labels early in the list are common here."""

from torch import Tensor

from grpo_tta import CandidateGroup, Reference


def early_labels(reference: Reference, group: CandidateGroup) -> Tensor:
    agreement = group.gather(reference.ensemble[:, None])
    return agreement - 0.5 * group.classes
'''
FEW = ["--tasks", "fog,digits", "--limit", "2", "--split", "tuning"]
VARIED = ["sweep", "--tasks", "fog", "--limit", "2", "--set", "views.views=4"]
ANOTHER_VERSION = "was written by another version, where settings and columns have other names; run again into another folder"


@pytest.fixture(autouse=True)
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`own.py` in the folder that everything here runs in, so that the reward's name is short."""
    monkeypatch.chdir(tmp_path)
    assert len([line for line in OWN.splitlines() if line]) <= 10
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def run(*words: str) -> None:
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output


def refused(*words: str) -> str:
    with pytest.raises(UserError) as error:
        app(list(words), standalone_mode=False)
    return str(error.value)


def test_a_reward_of_ones_own_in_python(own_file: Path, nano_backbone: Backbone) -> None:
    """The second label of a pair loses half a nat to the first, beside what the views say."""
    reward = runpy.run_path(str(own_file))["early_labels"]
    labels = nano.TASKS["fog"].classes[:2]
    image = Image.fromarray(nano.item("fog", "tuning", 0).image)
    plain, own = GRPOTTA(nano_backbone, labels), GRPOTTA(nano_backbone, labels, reward=reward)
    earned = {c.label: c.reward for c in own.explain(image).views[0].candidates}
    ensemble = GRPOTTA(nano_backbone, labels, reward=lambda reference, group: group.gather(reference.ensemble[:, None]))
    agreed = {c.label: c.reward for c in ensemble.explain(image).views[0].candidates}
    assert earned[labels[0]] == pytest.approx(agreed[labels[0]], abs=1e-5)
    assert earned[labels[1]] == pytest.approx(agreed[labels[1]] - 0.5, abs=1e-5)
    assert own.predict(image).probabilities != plain.predict(image).probabilities


def test_a_reward_of_ones_own_is_a_row_of_the_table_and_of_the_report() -> None:
    name = "grpo-tta[reward=own.py:early_labels]"
    own = [*FEW, "--set", "reward=own.py:early_labels"]
    run("bench", *FEW, "--methods", "grpo-tta", "--out", "plain")
    run("bench", *own, "--methods", "grpo-tta", "--workers", "2", "--out", "own")
    plain, rows = (read_records([Path(out)]) for out in ("plain", "own"))
    assert rows["error"].isna().all()
    assert set(rows["method"]) == {"zero-shot", "grpo-tta", name}

    answers = ["prediction", "settings_hash", "group", "confidence"]
    before, after, mine = (
        table[table["method"] == method].set_index(["task", "image_id"]).sort_index()[answers]
        for table, method in ((plain, "grpo-tta"), (rows, "grpo-tta"), (rows, name))
    )
    pd.testing.assert_frame_equal(before, after, rtol=1e-5)  # a worker has other threads, so its sums round otherwise
    assert not mine["confidence"].round(4).equals(after["confidence"].round(4))
    assert set(mine["settings_hash"]).isdisjoint(after["settings_hash"])

    run("report", "own", "--out", "report")
    assert name in (Path("report") / "report.html").read_text()


def test_a_reward_of_ones_own_is_a_value_of_a_sweep_and_of_its_report() -> None:
    run(*VARIED, "--vary", "reward=own.py:early_labels,Alignment()", "--out", "swept")
    about = json.loads((Path("swept") / "sweep.json").read_text())
    assert {point["value"] for point in about["points"]} >= {"own.py:early_labels", "Alignment()"}
    run("report", "swept", "--out", "report")
    table = pd.read_csv(Path("report") / "sweep.csv").set_index("value")
    assert table.loc[["own.py:early_labels", "Alignment()"], "errors"].tolist() == [0, 0]
    assert "own.py:early_labels" in (Path("report") / "report.html").read_text()


def written_by_another_version(path: Path) -> None:
    about = json.loads(path.read_text())
    del about["format"]
    path.write_text(json.dumps(about))


def test_a_folder_of_an_old_run_is_refused_with_the_reason() -> None:
    words = ["bench", "--tasks", "fog", "--limit", "1", "--methods", "zero-shot", "--out", "old"]
    run(*words)
    written_by_another_version(Path("old") / "run.json")
    kept = sorted(path.name for path in Path("old").rglob("*"))
    for again in (words, [*words, "--methods", "view-mean"], ["report", "old", "--out", "report"]):
        message = refused(*again)
        assert ANOTHER_VERSION in message
        assert message.startswith("old ")
    assert sorted(path.name for path in Path("old").rglob("*")) == kept
    assert not Path("report").exists()


def test_a_folder_of_an_old_sweep_is_refused_with_the_reason() -> None:
    words = [*VARIED, "--vary", "steps.count=0,1", "--out", "old"]
    run(*words)
    shutil.copytree("old", "old-run")
    written_by_another_version(Path("old") / "sweep.json")
    written_by_another_version(Path("old-run") / "group-0" / "seed-0" / "run.json")
    for again in (words, [*words, "--vary", "steps.count=0,3"], ["report", "old", "--out", "report"]):
        message = refused(*again)
        assert ANOTHER_VERSION in message
        assert message.startswith("old ")
    for again in ([*words[:-1], "old-run"], ["report", "old-run", "--out", "report"]):
        assert ANOTHER_VERSION in refused(*again)
