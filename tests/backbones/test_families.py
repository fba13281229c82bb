"""Every family of models: loaded offline from a folder, split, adapted, and left as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from grpo_tta import GRPOTTA, GRPOSettings, UserError, ViewSettings, load_backbone
from grpo_tta.backbones.base import HasClassRows
from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.engine.encode import encode_views
from grpo_tta.engine.optim import SGD
from grpo_tta.engine.parameters import LowRank, NormAffine, TunableParameters, supported_sets
from grpo_tta.engine.policy import Policy
from grpo_tta.method.settings import Steps
from tests import families
from tests.families import LABELS, NAMES

pytestmark = pytest.mark.backbones
SETTINGS = GRPOSettings(views=ViewSettings(views=4, content_free=1), steps=Steps(2, SGD(1.0)))
SETS = {"norm": NormAffine(), "low-rank": LowRank(last_blocks=None)}
B, M = 2, 2


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def backbone(name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("socket.socket.connect", _no_network)
        yield load_backbone(str(families.write(name, tmp_path_factory.mktemp("models") / name)))


def _no_network(*arguments: object) -> None:
    raise AssertionError(f"the network was asked: {arguments}")


@pytest.fixture(scope="module")
def policy(backbone: Any) -> Policy:
    return Policy(backbone, make_prompts(backbone, LABELS))


def pixels(backbone: Any, n: int) -> Tensor:
    S = backbone.image_size
    return torch.randn(n, 3, S, S, generator=torch.Generator().manual_seed(1))


def run(backbone: Any, tokens: Tensor, first: int = 0) -> Tensor:
    for block in backbone.blocks[first:]:
        tokens = block(tokens)
    return backbone.head(tokens)


@torch.no_grad()
def test_stem_blocks_and_head_equal_the_librarys_own_forward(backbone: Any) -> None:
    x = pixels(backbone, 3)
    found, expected = run(backbone, backbone.stem(x)), backbone.reference_forward(x)
    if isinstance(backbone, HasClassRows):  # whose own forward ends in logits
        found = found @ backbone.class_rows(LABELS).T
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_table_says_what_it_tunes_and_the_rest_is_refused(name: str, backbone: Any) -> None:
    supported = supported_sets(backbone)
    assert families.family(name).tunes == supported
    for refused in set(SETS) - set(supported):
        with pytest.raises(UserError, match="tune the norms instead"):
            SETS[refused](backbone)
    has_batch_norms = any(isinstance(m, nn.BatchNorm2d) for block in backbone.blocks for m in block.modules())
    assert has_batch_norms == (families.family(name).norms == "BatchNorm")


def owner(backbone: Any, name: str) -> tuple[nn.Module, str]:
    """The module that holds a parameter, and its name in it, by the name that the tuned parameter has."""
    kind, which, *path, leaf = name.split(".")
    module = backbone.blocks[int(which)] if kind == "blocks" else backbone.head_modules[which]
    return module.get_submodule(".".join(path)), leaf


def with_own_weights(backbone: Any, tunable: TunableParameters, params: dict[str, Tensor], image: int) -> Any:
    """A copy of the backbone with one image's parameters written into it: the plain way."""
    clone = copy.deepcopy(backbone)
    for name in tunable.replaced:
        module, leaf = owner(clone, name)
        getattr(module, leaf).copy_(params[name][image])
    for name, (_, pairs) in tunable.deltas.items():
        module, leaf = owner(clone, name)
        for pair in pairs:
            getattr(module, leaf)[pair.rows] += params[pair.up][image] @ params[pair.down][image]
    return clone


@pytest.mark.parametrize("tuned_set", SETS)
def test_every_image_has_its_own_parameters_and_they_alone_get_gradients(policy: Policy, tuned_set: Any) -> None:
    backbone: Any = policy.backbone
    if tuned_set not in supported_sets(backbone):
        return  # refused, as the test above holds
    tunable = SETS[tuned_set](backbone)
    views = pixels(backbone, B * M).unflatten(0, (B, M))
    encoded = encode_views(policy, views, views[:, :0], [tunable.first_block])
    tokens = encoded.tokens[tunable.first_block]
    torch.testing.assert_close(policy.adapted(tokens, tunable, tunable.start(B)), encoded.log_probs, atol=1e-5, rtol=1e-5)
    generator = torch.Generator().manual_seed(2)
    params = {
        key: (value.detach() + 0.05 * torch.randn(value.shape, generator=generator)).requires_grad_()
        for key, value in tunable.start(B).items()
    }
    found = policy.adapted_features(tokens, tunable, params)
    with torch.no_grad():
        for image in range(B):
            expected = run(with_own_weights(backbone, tunable, params, image), tokens[image], tunable.first_block)
            scale = expected.abs().max()
            torch.testing.assert_close(found[image] / scale, expected / scale, atol=2e-5, rtol=0)
    direction = torch.randn(found.shape[-1], generator=generator)
    (found @ direction).sum().backward()
    assert set(params) == set(tunable.shapes)
    for key, value in params.items():
        assert value.grad is not None, key
        assert value.grad.flatten(1).abs().amax(1).gt(0).all(), f"{key} gets no gradient"
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_adaptation_leaves_the_model_as_it_was(backbone: Any, image: Any) -> None:
    model = backbone._model
    before = copy.deepcopy(model.state_dict())
    classifier = GRPOTTA(backbone, LABELS, settings=SETTINGS)
    first, other, again = classifier.predict([image, image.rotate(180), image])
    assert first.probabilities == pytest.approx(again.probabilities, abs=1e-5)
    assert sum(other.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert classifier.explain(image).steps[0].gradient_norm > 0
    after = model.state_dict()  # running statistics of batch norms among them
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not model.training
