"""`--set NAME=VALUE`: a setting of the preset in `predict` and `sweep`, one more row in `bench`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from grpo_tta.bench.records import read_records
from grpo_tta.cli.bench import own_rows
from grpo_tta.cli.main import app
from grpo_tta.cli.options import settings_of
from grpo_tta.errors import UserError

OWN = """
def flipped(reference, group):
    return -group.gather(reference.ensemble[:, None, :])
"""


def run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def predicted(*words: str) -> dict[str, float]:
    found = json.loads(run("predict", *words, "--labels", "star,heart,fish", "--json"))
    probabilities: dict[str, float] = found["predictions"][0]["probabilities"]
    return probabilities


def test_without_assignments_the_preset_is_untouched() -> None:
    from grpo_tta.method.settings import DEFAULT, FAST

    assert settings_of("default", []) is DEFAULT
    assert settings_of("fast", []) is FAST
    assert own_rows([]) == []
    with pytest.raises(UserError, match="Unknown preset 'accurately'; choose default or"):
        settings_of("accurately", [])


def test_predict_changes_the_preset_of_the_call(awkward_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    image, few = str(awkward_folder / "a.jpg"), ["--set", "views.views=4"]
    plain, pair = predicted(image, *few), predicted(image, *few, "--set", "group=TopK(2)")
    frozen, own = (predicted(image, *few, "--set", x) for x in ("steps.count=0", f"reward={tmp_path / 'own.py'}:flipped"))
    assert predicted(image, *few) == plain
    assert len({tuple(found.values()) for found in (plain, pair, frozen, own)}) == 4
    for found in (plain, pair, frozen, own):
        assert sum(found.values()) == pytest.approx(1, abs=1e-5)


def test_bench_adds_one_row_and_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    common = ["bench", "--tasks", "fog", "--limit", "3", "--methods", "grpo-tta", "--split", "tuning"]
    run(*common, "--out", str(tmp_path / "plain"))
    reward = f"reward={tmp_path / 'own.py'}:flipped"
    run(*common, "--set", "group=Nucleus(mass=0.9)", "--set", reward, "--out", str(tmp_path / "set"))
    name = f"grpo-tta[group=Nucleus(mass=0.9),{reward}]"
    plain, changed = (read_records([tmp_path / folder]).set_index(["method", "image_id"]) for folder in ("plain", "set"))
    assert list(dict.fromkeys(changed.index.get_level_values("method"))) == ["zero-shot", "grpo-tta", name]
    assert changed["error"].isna().all()
    answers = ["prediction", "confidence", "settings_hash"]
    assert changed.loc["grpo-tta", answers].equals(plain.loc["grpo-tta", answers])
    assert not changed.loc[name, "confidence"].equals(changed.loc["grpo-tta", "confidence"])
    assert set(changed.loc[name, "settings_hash"]).isdisjoint(changed.loc["grpo-tta", "settings_hash"])


def test_a_reward_of_a_file_reaches_the_workers(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    reward = f"reward={tmp_path / 'own.py'}:flipped"
    words = ["bench", "--tasks", "fog,digits", "--limit", "2", "--methods", "zero-shot", "--split", "tuning", "--set", reward]
    run(*words, "--workers", "2", "--out", str(tmp_path / "two"))
    run(*words, "--out", str(tmp_path / "one"))
    one, two = (read_records([tmp_path / out]).set_index(["task", "method", "image_id"]).sort_index() for out in ("one", "two"))
    assert f"grpo-tta[{reward}]" in one.index.get_level_values("method")
    assert one["error"].isna().all()
    assert (one["prediction"] == two["prediction"]).all()
    assert one["confidence"].to_numpy() == pytest.approx(two["confidence"].to_numpy(), abs=1e-5)


def test_a_sweep_starts_from_what_is_set(tmp_path: Path) -> None:
    words = ["sweep", "--vary", "steps.count=0,1", "--set", "views.views=4", "--tasks", "fog", "--limit", "2"]
    run(*words, "--out", str(tmp_path / "x"))
    base = json.loads((tmp_path / "x" / "sweep.json").read_text())["base"]
    assert base["grpo"]["views"]["views"] == 4


@pytest.mark.parametrize("command", ["predict", "bench", "sweep"])
def test_a_setting_that_cannot_be_read_is_refused(command: str, tmp_path: Path, awkward_folder: Path) -> None:
    more = {
        "predict": [str(awkward_folder / "a.jpg"), "--labels", "star,heart"],
        "bench": ["--tasks", "fog", "--limit", "1", "--methods", "zero-shot", "--out", str(tmp_path / "x")],
        "sweep": ["--vary", "steps.count=0,1", "--tasks", "fog", "--limit", "1", "--out", str(tmp_path / "x")],
    }[command]
    for text in ("nothing=1", "group=Nucleus(mass=7)", "group=__import__('os')", "group"):
        with pytest.raises(UserError):
            app([command, *more, "--set", text], standalone_mode=False)
    assert not (tmp_path / "x").exists()
