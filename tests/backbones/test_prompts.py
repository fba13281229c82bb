from __future__ import annotations

from pathlib import Path

import pytest
import torch

from grpo_tta.backbones import prompts
from grpo_tta.backbones.base import Backbone
from grpo_tta.errors import UserError


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
