"""A user's own model, split by hand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from grpo_tta import GRPOTTA, UserError
from grpo_tta.backbones.custom import CustomBackbone
from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.engine.encode import encode_views
from grpo_tta.engine.parameters import NormAffine, supported_sets
from grpo_tta.engine.policy import Policy

pytestmark = pytest.mark.backbones
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


def own_backbone(**changes: Any) -> CustomBackbone:
    torch.manual_seed(0)
    model = OwnModel()
    settings: dict[str, Any] = {
        "stem": model.stem,
        "blocks": list(model.layers),
        "head": model.head,
        "encode_text": model.read,
        "image_size": 32,
        "logit_scale": 10.0,
        "head_modules": {"norm": model.norm},
    }
    return CustomBackbone("mine", model, **(settings | changes))


def test_it_is_adapted_and_left_as_it_was(image: Image.Image) -> None:
    backbone = own_backbone()
    assert supported_sets(backbone) == ("norm",)
    before = copy.deepcopy(backbone._model.state_dict())
    explanation = GRPOTTA(backbone, LABELS).explain(image)
    assert explanation.steps[0].gradient_norm > 0
    assert sum(explanation.prediction.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in backbone._model.state_dict().items())
    assert set(NormAffine(1)(backbone).shapes) == {
        f"{where}.{leaf}" for where in ("blocks.1.norm", "head.norm") for leaf in ("weight", "bias")
    }


def test_a_batch_norm_in_training_is_refused(image: Image.Image) -> None:
    backbone = own_backbone()
    policy = Policy(backbone, make_prompts(backbone, LABELS))
    tunable = NormAffine()(backbone)
    views = torch.randn(2, 2, 3, 32, 32)
    tokens = encode_views(policy, views, views[:, :0], [0]).tokens[0]
    backbone._model.train()
    with pytest.raises(UserError, match="put the model in eval mode"):
        policy.adapted(tokens, tunable, tunable.start(2))


def test_a_parameter_that_is_read_in_another_way_is_named(image: Image.Image) -> None:
    class OddNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(16, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return x / x.std() * self.weight

    with pytest.raises(UserError, match=r"does not read blocks\.2\.weight through torch's own norms"):
        GRPOTTA(own_backbone(blocks=[Mixer(16), Mixer(16), OddNorm()]), LABELS).predict(image)


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="at least one block"):
        own_backbone(blocks=[])
    with pytest.raises(UserError, match=r"features \(2, 8\) and two prompts \(2, 5\)"):
        own_backbone(encode_text=lambda prompts: torch.zeros(len(prompts), 5))
    with pytest.raises(UserError, match=r"preprocess returned \(3, 32, 64\); it must return \(3, 32, 32\)"):
        own_backbone(preprocess=lambda image: torch.zeros(3, 32, 64))
    with pytest.raises(UserError, match=r"OwnModel has no name, .*CustomBackbone"):
        GRPOTTA(OwnModel(), LABELS)  # type: ignore[arg-type]


def test_a_block_that_writes_into_its_input_is_refused() -> None:
    class InPlace(Mixer):
        def forward(self, x: Tensor) -> Tensor:
            x += self.mix(self.norm(x)).relu()
            return x

    with pytest.raises(UserError, match="block 1 writes into its input"):
        own_backbone(blocks=[Mixer(16), InPlace(16)])


def test_another_text_side_is_another_model() -> None:
    """Text features are kept on disk by the fingerprint; a corrected tokenizer changes no weight."""
    first = own_backbone()
    assert own_backbone().fingerprint == first.fingerprint
    assert (
        own_backbone(encode_text=lambda prompts: first.encode_text([p[::2] for p in prompts])).fingerprint != first.fingerprint
    )
