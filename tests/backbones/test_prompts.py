from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from grpo_tta.backbones import prompts
from grpo_tta.backbones.base import Backbone
from grpo_tta.data.public.imagenet import class_names
from grpo_tta.errors import UserError
from tests.other_user import as_nobody


def test_templates_are_averaged_as_unit_features(nano_backbone: Backbone) -> None:
    both = prompts.encode_classes(nano_backbone, ["star", "heart"], ["a {}.", "the {}."])
    single = [prompts.encode_classes(nano_backbone, ["star", "heart"], [t]) for t in ("a {}.", "the {}.")]
    expected = torch.nn.functional.normalize(single[0] + single[1], dim=-1)
    torch.testing.assert_close(both, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(both.norm(dim=-1), torch.ones(2))


def test_the_cache_answers_the_second_time(nano_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPO_TTA_CACHE", str(tmp_path))
    first = prompts.text_features(nano_backbone, ["star", "heart"])
    monkeypatch.setattr(prompts, "encode_classes", lambda *a, **k: pytest.fail("encoded again"))
    assert torch.equal(prompts.text_features(nano_backbone, ["star", "heart"]), first)


def test_a_damaged_cache_costs_time_and_never_a_wrong_answer(
    nano_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRPO_TTA_CACHE", str(tmp_path))
    first = prompts.text_features(nano_backbone, ["star", "heart"])
    (entry,) = (tmp_path / "text").iterdir()
    entry.write_bytes(b"half of an entry")
    assert torch.equal(prompts.text_features(nano_backbone, ["star", "heart"]), first)
    monkeypatch.setenv("GRPO_TTA_CACHE", "/proc/nowhere")
    assert torch.equal(prompts.text_features(nano_backbone, ["star", "heart"]), first)


def test_labels_are_checked() -> None:
    assert prompts.check_labels([" star", "heart "]) == ("star", "heart")
    for bad, message in ((["star", "star "], "more than once"), (["", "a"], "Label 1 is empty"), (["a"], "at least two")):
        with pytest.raises(UserError, match=message):
            prompts.check_labels(bad)
    for template in ("no braces", "{} and {}", "{} {"):
        with pytest.raises(UserError, match="exactly one"):
            prompts.check_templates([template])


def test_names_repeat_only_where_that_is_said(nano_backbone: Backbone) -> None:
    with pytest.raises(UserError, match="'star' occurs more than once"):
        prompts.make_prompts(nano_backbone, ["star", "heart", "star"])
    twice = prompts.make_prompts(nano_backbone, ["star", "heart", "star"], repeats=True)
    assert torch.equal(twice.features[0], twice.features[2])


@pytest.mark.parametrize(
    ("one", "other"),
    [("Star", "star"), ("caf\u00e9", "cafe\u0301"), ("star  fish", "star fish")],
    ids=["case", "accent", "blanks"],
)
def test_labels_that_the_model_reads_alike_are_refused(nano_backbone: Backbone, one: str, other: str) -> None:
    with pytest.raises(UserError, match=r"reads the labels .* alike") as caught:
        prompts.make_prompts(nano_backbone, ["heart", one, "circle", other])
    assert repr(one) in str(caught.value)
    assert repr(other) in str(caught.value)


def test_labels_are_compared_by_features_where_there_are_no_tokens(nano_backbone: Backbone) -> None:
    class WithoutTokens:
        def __getattr__(self, name: str) -> object:
            if name == "tokenize":
                raise AttributeError(name)
            return getattr(nano_backbone, name)

    plain: Any = WithoutTokens()
    assert len(prompts.make_prompts(plain, ["star", "heart", "circle"]).features) == 3
    with pytest.raises(UserError, match="reads the labels 'Star' and 'star' alike"):
        prompts.make_prompts(plain, ["heart", "Star", "circle", "star"])
    prompts.make_prompts(plain, ["star", "heart", "star"], repeats=True)


def test_imagenets_names_are_read_differently() -> None:
    """But for the two that occur twice: no pair of OpenAI's names ends in the same tokens."""
    names = list(class_names().values())
    clip: Any = SimpleNamespace(tokenize=open_clip.get_tokenizer("ViT-B-32"))
    assert prompts._read_alike(clip, names, "{}", torch.eye(len(names))) is None


def run_without_home(tmp_path: Path, **environment: str) -> str:
    """Text features in a process of a user without a home; what it says on standard error."""
    code = (
        "from grpo_tta.backbones.base import load_backbone\n"
        "from grpo_tta.backbones.prompts import make_prompts\n"
        "print(tuple(make_prompts(load_backbone('nano-clip'), ['star', 'heart']).features.shape))"
    )
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME", "GRPO_TTA_CACHE")}
    command = [sys.executable, "-c", code]
    command = as_nobody(command)
    done = subprocess.run(command, env=kept | environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(2, 128)\n"
    return done.stderr


@pytest.mark.parametrize(
    ("environment", "lines"),
    [({}, 1), ({"HOME": "/nowhere"}, 1), ({"XDG_CACHE_HOME": ""}, 1), ({"GRPO_TTA_CACHE": "/proc/nowhere"}, 1)],
    ids=["no home", "home is no folder", "empty", "read-only"],
)
def test_a_cache_that_cannot_be_used_costs_one_line(tmp_path: Path, environment: dict[str, str], lines: int) -> None:
    said = run_without_home(tmp_path, **environment)
    assert said.count("The cache of text features") == lines, said
    assert "Traceback" not in said


def test_another_users_entry_is_left_aside(
    nano_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GRPO_TTA_CACHE", str(tmp_path))
    first = prompts.text_features(nano_backbone, ["star", "heart"])

    def forbidden(path: Path) -> NoReturn:
        raise PermissionError(13, "Permission denied", str(path))

    prompts._warn_once.cache_clear()
    monkeypatch.setattr(prompts, "load_file", forbidden)
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: forbidden(self))
    assert torch.equal(prompts.text_features(nano_backbone, ["star", "heart"]), first)
    assert "Permission denied" in caplog.text


def test_an_entry_of_another_shape_is_computed_again(
    nano_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRPO_TTA_CACHE", str(tmp_path))
    first = prompts.text_features(nano_backbone, ["star", "heart"])
    (entry,) = (tmp_path / "text").iterdir()
    for wrong in (torch.zeros(3, 128), torch.full((2, 128), float("nan"))):
        save_file({"text_features": wrong}, entry)
        assert torch.equal(prompts.text_features(nano_backbone, ["star", "heart"]), first)


def test_a_user_without_a_home_has_no_cache(
    nano_backbone: Backbone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As for a uid without an entry in passwd and without HOME: Python itself finds no home then."""

    def fails() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("GRPO_TTA_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", fails)
    assert prompts.cache_folder() is None
    prompts._warn_once.cache_clear()
    with caplog.at_level("WARNING"):
        found = prompts.text_features(nano_backbone, ["cat", "dog"])
    assert torch.equal(found, prompts.encode_classes(nano_backbone, ["cat", "dog"], [prompts.DEFAULT_TEMPLATE]))
    assert "there is no home folder" in caplog.text
