"""The script that measures the options that spend less on views: each option by hand, and one real run on few images."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from grpo_tta.backbones.base import load_backbone
from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.engine.encode import encode_views
from grpo_tta.engine.policy import Policy
from tests.scripts import load_script


@pytest.fixture
def fewer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("perf/fewer_views.py", monkeypatch)


@pytest.fixture(scope="module")
def policy() -> Policy:
    backbone = load_backbone("nano-clip")
    return Policy(backbone, make_prompts(backbone, ("star", "heart", "arrow")))


def test_sequential_stops_where_no_view_that_is_left_could_change_the_answer(fewer: ModuleType) -> None:
    """A sure view weighs one: a lead of two is not overtaken by the two that are left, nor a lead of one by one."""
    sure = torch.tensor([1.0, 0.0]).log()
    other = sure.flip(0)
    log_probs = torch.stack([torch.stack([sure, sure, sure, other]), torch.stack([sure, other, sure, other])])
    found = fewer.sequential(log_probs, 1.0)
    assert found.classes.tolist() == [0, 0]
    assert found.cost.tolist() == [2.0, 3.0]
    early = fewer.sequential(log_probs, 0.3)
    assert early.cost.tolist() == [1.0, 1.0]  # a lead of one is above 0.3 of three


def test_sequential_with_all_that_is_left_never_differs_from_the_whole_vote(fewer: ModuleType) -> None:
    log_probs = (3 * torch.randn(200, 24, 5, generator=torch.Generator().manual_seed(0))).log_softmax(-1)
    found = fewer.sequential(log_probs, 1.0)
    assert torch.equal(found.classes, fewer.vote(log_probs))
    assert found.cost.max() <= 24


def test_gate_uses_the_views_only_where_the_first_is_uncertain(fewer: ModuleType) -> None:
    sure, unsure = torch.tensor([0.99, 0.01]).log(), torch.tensor([0.6, 0.4]).log()
    against = torch.tensor([0.01, 0.99]).log()
    log_probs = torch.stack([torch.stack([sure, against, against]), torch.stack([unsure, against, against])])
    found = fewer.gate(log_probs, 0.2)
    assert found.classes.tolist() == [0, 1]
    assert found.cost.tolist() == [1.0, 3.0]


def test_the_encoder_at_full_size_is_the_library_s(fewer: ModuleType, policy: Policy) -> None:
    views = torch.rand(2, 24, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    log_probs = encode_views(policy, views, views[:, :0]).log_probs
    encoder = fewer.Encoder(policy)
    with torch.no_grad():
        by_hand = encoder.read(encoder.through(encoder.embed(views.flatten(0, 1)), 0))
        assert torch.allclose(by_hand, log_probs.flatten(0, 1), atol=1e-4)
        same = fewer.smaller(encoder, log_probs, views, 24, 6)
        assert torch.equal(same.classes, fewer.vote(log_probs))
        assert same.cost.tolist() == pytest.approx([24.0, 24.0])
        every = fewer.early(encoder, views, 2, 24)
        assert torch.equal(every.classes, fewer.vote(log_probs))
        assert every.cost.tolist() == pytest.approx([24.0, 24.0])
        whole = fewer.tokens(encoder, log_probs, views, ("a", "b"), 3, (1.0, 1.0), 0)
        assert bool((whole.cost <= 3.0).all())


def test_it_measures_every_option(fewer: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = fewer.measure("tuning", 2, 0)
    assert found["tasks"] == 18
    by_name = {row["option"]: row for row in found["options"]}
    assert by_name["first 24"]["to_all_views"] == (0.0, 0.0, 0.0)
    assert by_name["first 24"]["flips"] == by_name["sequential 1.0"]["flips"] == 0
    assert by_name["rounds 0.08"]["passes"] < by_name["rounds 0.3"]["passes"]
    assert by_name["smaller 8 x 24 px"]["passes"] == pytest.approx(1 + 7 * 10 / 37)
    assert by_name["early 6 of 24 after 1"]["passes"] == pytest.approx(24 / 6 + 6 * 5 / 6)
    assert all(row["passes"] <= 24 for row in found["options"])
