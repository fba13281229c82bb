"""perf/overhead.py runs and writes what it promises; its clock is not judged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.scripts import load_script

RATIOS = {"episode_over_views", "accurate_over_views", "naive_over_accurate", "naive_over_fast", "trunk_over_matmul"}


@pytest.fixture
def overhead(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_script("perf/overhead.py", monkeypatch)
    monkeypatch.setattr(module, "MATRIX", 64)
    monkeypatch.setattr(module, "IMAGE_SIZE", (100, 75))
    monkeypatch.setattr(module, "REPEAT_FOR", 0.0)
    return module


def test_every_ratio_is_a_positive_number(overhead: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "sub" / "overhead.json"
    assert overhead.main(["--model", "nano-clip", "--views", "8", "--rounds", "1", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["ratios"].keys() == RATIOS
    assert all(math.isfinite(value) and value > 0 for value in found["ratios"].values())
    assert found["beside"].keys() == {"rlcf_over_views", "least_over_views"}
    assert found["beside"]["least_over_views"] > 1
    assert found["beside"]["rlcf_over_views"] > 1
    assert len(found["rounds"]) == 1
    assert found["phases"].keys() == {"views_ms", "trunk_ms", "proposal_ms", "step_ms", "predict_ms"}


def test_the_plain_yardstick_moves_the_prediction_and_puts_the_weights_back(overhead: ModuleType) -> None:
    bench = overhead.make_bench("nano-clip", 8, torch.float32)
    backbone, visual = bench.policy.backbone, bench.visual
    before = {name: value.clone() for name, value in visual.state_dict().items()}
    make = overhead.plain_views(8, backbone.image_size, backbone.mean.tolist(), backbone.std.tolist())
    image = overhead.draw_image(0)
    after = overhead.naive(visual, backbone.logit_scale, bench.policy.text_features, make, image)
    frozen = bench.policy.log_probs(visual(make(image)[:1])).detach()[0]
    assert not torch.equal(after, frozen)
    assert all(torch.equal(value, before[name]) for name, value in visual.state_dict().items())


def test_operations_are_those_of_the_products_worked_out_by_hand(overhead: ModuleType) -> None:
    policy = overhead.make_policy("nano-clip", torch.float32)
    T, W, D, depth, patch = 37, 128, 128, 6, 8
    block = 2 * T * W * 12 * W + 4 * T * T * W  # four projections and the MLP; scores and their use
    last = 2 * T * W * 2 * W + 2 * W * 10 * W + 4 * T * W  # keys and values of all tokens, the rest of the class token alone
    expected = 2 * (T - 1) * 3 * patch**2 * W + (depth - 1) * block + last + 2 * W * D + 2 * D * overhead.CLASSES
    assert overhead.operations_of_a_view(policy) == expected


def test_operations_of_an_episode_worked_out_by_hand(overhead: ModuleType) -> None:
    policy = overhead.make_policy("nano-clip", torch.float32)
    V, T, W, C = 8, 37, 128, overhead.CLASSES
    settings = overhead.episode_settings(V, len(policy.backbone.blocks))
    found = overhead.least_operations(policy, {"episode": settings})["episode_over_views"]
    block = 2 * T * W * 12 * W + 4 * T * T * W
    last = 2 * T * W * 2 * W + 2 * W * 10 * W + 4 * T * W
    end = 2 * W * W + 2 * W * C  # the head's projection and the classes
    # backwards: every product once more, and the two of an attention twice, since both of their factors move
    back = 3 * (block + 4 * T * T * W) + last + 4 * T * W + end
    more = 6 * (3 * block + last + end + back) + 3 * block + last + end  # six views forward and backward, view 0 for the answer
    assert found == pytest.approx(1 + more / (V * overhead.operations_of_a_view(policy)), rel=2e-3)


def test_peaks_of_one_load(overhead: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    load = json.dumps({"views": 8, "candidates": 3, "classes": 10, "images": 2})
    assert overhead.main(["--model", "nano-clip", "--peaks-of", load]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"views_mb", "episode_mb"}
    assert found["episode_mb"] > 0
