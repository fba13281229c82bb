"""A user's own model, cut by hand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from grpo_tta import GRPOTTA, UserError
from grpo_tta.policy import Policy
from grpo_tta.prompts import make_prompts
from grpo_tta.towers.custom import CustomTower
from grpo_tta.tuning import make_plan, supported_sets

pytestmark = pytest.mark.towers
LABELS = ("cat", "dog", "elk")


class Mixer(nn.Module):
    """A residual block of a batch norm and a convolution: nothing that a library here knows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.mix = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(self.norm(x)).relu()


class OwnModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.layers = nn.Sequential(Mixer(16), Mixer(16))
        self.norm, self.out = nn.LayerNorm(16), nn.Linear(16, 8)
        self.words = nn.Embedding(256, 8)

    def read(self, prompts: Sequence[str]) -> Tensor:
        return torch.stack([self.words(torch.tensor(list(prompt.encode()))).mean(0) for prompt in prompts])

    def head(self, x: Tensor) -> Tensor:
        return self.out(self.norm(x.mean((2, 3))))


def own_tower(**changes: Any) -> CustomTower:
    torch.manual_seed(0)
    model = OwnModel()
    settings: dict[str, Any] = {
        "prefix": model.stem,
        "blocks": list(model.layers),
        "head": model.head,
        "encode_text": model.read,
        "image_size": 32,
        "logit_scale": 10.0,
        "head_modules": {"norm": model.norm},
    }
    return CustomTower("mine", model, **(settings | changes))


def test_it_is_adapted_and_left_as_it_was(picture: Image.Image) -> None:
    tower = own_tower()
    assert supported_sets(tower) == ("norm",)
    before = copy.deepcopy(tower._model.state_dict())
    told = GRPOTTA(tower, LABELS).explain(picture)
    assert told.steps[0].gradient_norm > 0
    assert sum(told.prediction.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in tower._model.state_dict().items())
    assert set(make_plan(tower, "norm", 1).shapes) == {
        f"{where}.{leaf}" for where in ("blocks.1.norm", "head.norm") for leaf in ("weight", "bias")
    }


def test_a_batch_norm_in_training_is_refused(picture: Image.Image) -> None:
    tower = own_tower()
    policy = Policy(tower, make_prompts(tower, LABELS))
    plan = make_plan(tower)
    views = torch.randn(2, 2, 3, 32, 32)
    tokens = policy.observe(views, views[:, :0], [0]).tokens[0]
    tower._model.train()
    with pytest.raises(UserError, match="put the model in eval mode"):
        policy.adapted(tokens, plan, plan.start(2))


def test_a_parameter_that_is_read_in_another_way_is_named(picture: Image.Image) -> None:
    class OddNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(16, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return x / x.std() * self.weight

    with pytest.raises(UserError, match=r"does not read blocks\.2\.weight through torch's own norms"):
        GRPOTTA(own_tower(blocks=[Mixer(16), Mixer(16), OddNorm()]), LABELS).predict(picture)


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="at least one block"):
        own_tower(blocks=[])
    with pytest.raises(UserError, match=r"features \(2, 8\) and two prompts \(2, 5\)"):
        own_tower(encode_text=lambda prompts: torch.zeros(len(prompts), 5))
    with pytest.raises(UserError, match=r"preprocess returned \(3, 32, 64\); it must return \(3, 32, 32\)"):
        own_tower(preprocess=lambda image: torch.zeros(3, 32, 64))
    with pytest.raises(UserError, match=r"OwnModel has no name, .*CustomTower"):
        GRPOTTA(OwnModel(), LABELS)  # type: ignore[arg-type]


def test_a_block_that_writes_into_its_input_is_refused() -> None:
    class InPlace(Mixer):
        def forward(self, x: Tensor) -> Tensor:
            x += self.mix(self.norm(x)).relu()
            return x

    with pytest.raises(UserError, match="block 1 writes into its input"):
        own_tower(blocks=[Mixer(16), InPlace(16)])


def test_another_text_side_is_another_model() -> None:
    """Text features are kept on disk by the fingerprint; a corrected tokenizer changes no weight."""
    first = own_tower()
    assert own_tower().fingerprint == first.fingerprint
    assert own_tower(encode_text=lambda prompts: first.encode_text([p[::2] for p in prompts])).fingerprint != first.fingerprint
