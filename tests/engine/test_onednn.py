"""float32 products by oneDNN: the same numbers up to rounding, and only where they are faster."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from grpo_tta import GRPOTTA, load_backbone
from grpo_tta.backbones.base import Backbone
from grpo_tta.engine import onednn
from grpo_tta.engine.encode import encode_views
from grpo_tta.engine.onednn import frozen_products, linear, linear_for
from grpo_tta.engine.own_weights import encode
from grpo_tta.method.parse import change_settings
from grpo_tta.method.settings import DEFAULT

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise") or not torch.backends.mkldnn.is_available(),
    reason="this build of torch has no oneDNN",
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Makes any processor one on which MKL is slow; shapes of the weights that oneDNN multiplies by."""
    found: list[tuple[int, ...]] = []
    product = onednn._product

    def watched(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        found.append(tuple(weight.shape))
        return product(x, weight, bias)

    monkeypatch.setattr(onednn, "mkl_is_slow", lambda: True)
    monkeypatch.setattr(onednn, "_product", watched)
    return found


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7), (1, 2, 3, 7), (2, 600, 7)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_linear_layer_and_its_gradient(shape: tuple[int, ...], with_bias: bool, calls: list[tuple[int, ...]]) -> None:
    weight, bias, x = drawn(4, 7), drawn(4) if with_bias else None, drawn(*shape).requires_grad_()
    found, expected = linear(x, weight, bias), F.linear(x, weight, bias)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    aim = drawn(*expected.shape)
    gradient, of_torch = (torch.autograd.grad((made * aim).sum(), x)[0] for made in (found, expected))
    torch.testing.assert_close(gradient, of_torch, rtol=1e-5, atol=1e-5)
    assert calls == [(4, 7), (7, 4)]


def test_a_turned_input_is_laid_out_anew(calls: list[tuple[int, ...]]) -> None:
    x, weight = drawn(3, 5, 7).transpose(0, 1), drawn(4, 7)
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight), rtol=1e-5, atol=1e-5)


def test_what_is_trained_or_of_another_precision_is_left_to_torch(calls: list[tuple[int, ...]]) -> None:
    layer = nn.Linear(7, 4)
    linear(drawn(5, 7), layer.weight, layer.bias).sum().backward()
    assert layer.weight.grad is not None
    linear(drawn(5, 7), layer.weight.detach(), layer.bias).sum().backward()
    assert layer.bias.grad is not None
    assert linear(drawn(5, 7).bfloat16(), drawn(4, 7).bfloat16()).dtype == torch.bfloat16
    assert linear(drawn(7), drawn(4, 7)).shape == (4,)
    assert linear(torch.zeros(0, 7), drawn(4, 7)).shape == (0, 4)
    assert calls == []
    with torch.no_grad():
        linear(drawn(5, 7), layer.weight, layer.bias)  # without a gradient nothing is trained
    assert calls == [(4, 7)]


def test_it_is_chosen_for_float32_on_a_slow_processor_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(onednn, "mkl_is_slow", lambda: False)
    assert linear_for(cpu, torch.float32) is F.linear
    monkeypatch.setattr(onednn, "mkl_is_slow", lambda: True)
    assert linear_for(cpu, torch.float32) is linear
    assert linear_for(cpu, torch.bfloat16) is F.linear
    assert linear_for(torch.device("cuda"), torch.float32) is F.linear


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("nano-clip", device="cpu")


@torch.no_grad()
def test_the_frozen_pass_is_the_librarys(backbone: Backbone, calls: list[tuple[int, ...]]) -> None:
    pixels = drawn(3, 3, backbone.image_size, backbone.image_size)
    expected = encode(backbone, pixels)
    assert calls == []
    with frozen_products(backbone):
        torch.testing.assert_close(encode(backbone, pixels), expected, rtol=1e-4, atol=1e-5)
    W = 128
    block = [(3 * W, W), (W, W), (4 * W, W), (W, 4 * W)]
    # of the last block the class token alone is projected, and asks
    assert calls == 5 * block + [(W, W), (2 * W, W), *block[1:]]


@torch.no_grad()
@pytest.mark.parametrize("given", [{"attn_mask": torch.zeros(4, 4)}, {"need_weights": True}, {}])
def test_attention_of_other_kinds_is_left_to_torch(given: dict[str, Any], backbone: Backbone, calls: list[Any]) -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x, options = drawn(2, 4, 8), {"need_weights": False} | given
    expected = attention(x, x, x, **options)[0]
    with frozen_products(backbone):
        torch.testing.assert_close(attention(x, x, x, **options)[0], expected, rtol=1e-4, atol=1e-5)
    assert bool(calls) == (not given)


@torch.no_grad()
@pytest.mark.parametrize("queries", [4, 1])
def test_attention_reads_tokens_as_they_lie(queries: int) -> None:
    attention = nn.MultiheadAttention(8, 2).eval()  # tokens first
    given = {name: getattr(attention, name) for name in ("in_proj_weight", "in_proj_bias")}
    given |= {"num_heads": 2, "out_proj_weight": attention.out_proj.weight, "out_proj_bias": attention.out_proj.bias}
    x = drawn(4, 3, 8)
    expected = attention(x[:queries], x, x, need_weights=False)[0]
    for laid_out in (x, x.transpose(0, 1).contiguous().transpose(0, 1)):
        query = laid_out if queries == 4 else laid_out[:queries]
        found = onednn.self_attention(linear, query, laid_out, laid_out, given)
        assert found is not None
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tune", ["NormAffine(last_blocks=3)", "LowRank(rank=2, last_blocks=2)"])
def test_answers_are_the_same(tune: str, monkeypatch: pytest.MonkeyPatch, calls: list[tuple[int, ...]]) -> None:
    settings = change_settings(DEFAULT, [f"tune={tune}", "views.views=4"])
    classifier = GRPOTTA("nano-clip", ["star", "heart", "arrow"], settings=settings, device="cpu")
    image = Image.fromarray(drawn(40, 50, 3).mul(60).add(128).clamp(0, 255).byte().numpy())
    encode_views(classifier.policy, drawn(1, 4, 3, 48, 48), drawn(1, 0, 3, 48, 48))
    frozen = len(calls)
    assert frozen == 5 * 4 + 5  # layers of five blocks, and of the last one, whose query is a product of its own
    found = classifier.explain(image)
    assert len(calls) > 2 * frozen + 2 * (4 + 5)  # the last two blocks forward, backward and for the prediction
    monkeypatch.setattr(onednn, "mkl_is_slow", lambda: False)
    calls.clear()
    expected = classifier.explain(image)
    assert calls == []
    assert found.prediction.probabilities == pytest.approx(expected.prediction.probabilities, abs=1e-5)
    assert found.steps[0].gradient_norm == pytest.approx(expected.steps[0].gradient_norm, rel=1e-3)
