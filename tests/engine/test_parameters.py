"""Per-image parameters against the plain way: copy the weights into a clone of the model, one image at a time."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from grpo_tta.backbones.open_clip import OpenClipBackbone
from grpo_tta.engine.encode import encode_views
from grpo_tta.engine.parameters import LowRank, NormAffine, TunableParameters, Tune, supported_sets
from grpo_tta.engine.per_image import PerImage
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError

B, M = 3, 2


def views(backbone: OpenClipBackbone) -> Tensor:
    return torch.randn(B, M, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def perturbed(tunable: TunableParameters) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    start = tunable.start(B)
    return {n: (v.detach() + 0.2 * torch.randn(v.shape, generator=generator)).requires_grad_() for n, v in start.items()}


def tokens_at(backbone: OpenClipBackbone, pixels: Tensor, block: int) -> Tensor:
    with torch.no_grad():
        x = backbone.stem(pixels.flatten(0, 1))
        for module in backbone.blocks[:block]:
            x = module(x)
    return x.unflatten(0, pixels.shape[:2])


def parameter_named(backbone: OpenClipBackbone, name: str) -> nn.Parameter:
    where, leaf = name.rsplit(".", 1)
    parts = where.split(".")
    module = backbone.blocks[int(parts[1])] if parts[0] == "blocks" else backbone.head_modules[parts[1]]
    for part in parts[2:]:
        module = getattr(module, part)
    return getattr(module, leaf)


def expected_log_probs(
    policy: Policy, tunable: TunableParameters, params: dict[str, Tensor], image: int, tokens: Tensor
) -> Tensor:
    """The suffix of a clone of the backbone with this image's parameters written into it."""
    backbone = copy.deepcopy(policy.backbone)
    with torch.no_grad():
        for name in tunable.replaced:
            parameter_named(backbone, name).copy_(params[name][image])
        for name, (_, pairs) in tunable.deltas.items():
            for pair in pairs:
                parameter_named(backbone, name)[pair.rows] += params[pair.up][image] @ params[pair.down][image]
        x = tokens[image]
        for block in backbone.blocks[tunable.first_block :]:
            x = block(x)
        return policy.log_probs(backbone.head(x))


@pytest.mark.parametrize("tune", [NormAffine(), NormAffine(1), LowRank(last_blocks=None), LowRank(last_blocks=2)])
def test_every_image_sees_its_own_parameters(policy: Policy, tune: Tune) -> None:
    tunable = tune(policy.backbone)
    params = perturbed(tunable)
    tokens = tokens_at(policy.backbone, views(policy.backbone), tunable.first_block)
    found = policy.adapted(tokens, tunable, params)
    for image in range(B):
        expected = expected_log_probs(policy, tunable, params, image, tokens)
        torch.testing.assert_close(found[image], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("tune", [NormAffine(2), LowRank(last_blocks=2)])
def test_the_start_is_the_frozen_model(policy: Policy, tune: Tune) -> None:
    pixels = views(policy.backbone)
    tunable = tune(policy.backbone)
    encoded = encode_views(policy, pixels, pixels[:, :0], [tunable.first_block])
    found = policy.adapted(encoded.tokens[tunable.first_block], tunable, tunable.start(B))
    torch.testing.assert_close(found, encoded.log_probs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tune", [NormAffine(2), LowRank(last_blocks=2)])
def test_gradients_reach_exactly_the_named_parameters(policy: Policy, tune: Tune) -> None:
    tunable = tune(policy.backbone)
    params = perturbed(tunable)
    tokens = tokens_at(policy.backbone, views(policy.backbone), tunable.first_block)
    policy.adapted(tokens, tunable, params)[..., 0].sum().backward()
    assert set(params) == set(tunable.shapes)
    for name, value in params.items():
        assert value.grad is not None, name
        assert value.grad.flatten(1).abs().amax(1).gt(0).all(), f"{name} gets no gradient"
    assert all(p.grad is None for p in policy.backbone.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.LayerNorm(8), (5, 8)),
        (nn.RMSNorm(8), (5, 8)),
        (nn.GroupNorm(2, 8), (8, 3, 3)),
        (nn.BatchNorm2d(8), (8, 3, 3)),
    ],
)
def test_the_only_image_of_a_batch_reads_its_own(norm: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    module = copy.deepcopy(norm).to(dtype).eval().requires_grad_(False)
    replaced = dict(module.named_parameters())
    tunable = TunableParameters(0, replaced, {}, {name: p.shape for name, p in replaced.items()})
    values = {name: torch.randn(8, generator=torch.Generator().manual_seed(3)) for name in replaced}
    x = torch.randn(M, *shape, generator=torch.Generator().manual_seed(4)).to(dtype)
    expected = copy.deepcopy(norm).eval()
    expected.load_state_dict(values, strict=False)
    of_clone = expected(x.float())
    of_clone.square().sum().backward()
    for images in (1, 2):  # the same image twice takes the way of a batch
        params = {name: value.expand(images, 8).clone().requires_grad_() for name, value in values.items()}
        with PerImage(tunable, params):
            found = module(torch.cat([x] * images))
        assert found.dtype == dtype
        tolerance = 1e-5 if dtype == torch.float32 else 5e-2
        torch.testing.assert_close(found.float(), torch.cat([of_clone] * images), atol=tolerance, rtol=tolerance)
        found.float().square().sum().backward()
        for name, value in params.items():
            gradient = expected.get_parameter(name).grad
            assert value.grad is not None
            assert gradient is not None
            torch.testing.assert_close(value.grad, gradient.expand(images, 8), atol=10 * tolerance, rtol=10 * tolerance)


def test_an_images_gradient_does_not_depend_on_its_neighbours(policy: Policy) -> None:
    tunable = NormAffine()(policy.backbone)
    params = perturbed(tunable)
    tokens = tokens_at(policy.backbone, views(policy.backbone), 0)
    together = torch.autograd.grad(policy.adapted(tokens, tunable, params)[..., 0].sum(), list(params.values()))
    one = {name: value[1:2].detach().requires_grad_() for name, value in params.items()}
    alone = torch.autograd.grad(policy.adapted(tokens[1:2], tunable, one)[..., 0].sum(), list(one.values()))
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:2], b, atol=1e-5, rtol=1e-3)


def test_named_parameters(backbone: OpenClipBackbone) -> None:
    names = set(NormAffine(1)(backbone).shapes)
    assert names == {f"blocks.2.{n}.{leaf}" for n in ("ln_1", "ln_2") for leaf in ("weight", "bias")} | {
        "head.ln_post.weight",
        "head.ln_post.bias",
    }
    assert NormAffine(1)(backbone).first_block == 2


def test_what_a_backbone_does_not_have_is_refused(backbone: OpenClipBackbone) -> None:
    with pytest.raises(UserError, match="has 3 blocks; use 0 to 3"):
        NormAffine(4)(backbone)
    with pytest.raises(UserError, match="has 3 blocks; use 1 to 3"):
        LowRank(last_blocks=4)(backbone)
    with pytest.raises(UserError, match="last_blocks must be at least 1"):
        LowRank(last_blocks=0)  # the head has nothing of the kind
    with pytest.raises(UserError, match="rank must be at least 1"):
        LowRank(rank=0)


def test_supported_sets(backbone: OpenClipBackbone) -> None:
    assert supported_sets(backbone) == ("norm", "low-rank")
