"""GRPO-TTA with shared parameters: the prior, its guard, the state and what is forgotten."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from grpo_tta.engine.encode import encode_views
from grpo_tta.engine.interface import ImageBatch, Method
from grpo_tta.engine.parameters import NormAffine
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.online import StreamCounts, StreamSettings, stream_method, stream_prior
from grpo_tta.method.settings import ALONG_A_STREAM, Steps

SMALL = replace(ALONG_A_STREAM, views=ViewSettings(views=4, content_free=2), tune=NormAffine())
ONLINE = StreamSettings(SMALL, update_size=4)


def batch_of(policy: Policy, method: Method, n: int = 8, start: int = 0) -> ImageBatch:
    generator = torch.Generator().manual_seed(3)
    views = torch.randn(16, 6, 3, 32, 32, generator=generator)[start : start + n]
    content_free = torch.randn(16, 3, 3, 32, 32, generator=generator)[start : start + n]
    encoded = encode_views(policy, views, content_free, method.cached_blocks(policy.backbone))
    return ImageBatch(tuple(f"x{i}" for i in range(start, start + n)), views, content_free, encoded, 0)


def test_the_prior_by_hand() -> None:
    settings = replace(ONLINE, pseudo_images=4.0, guard=None)
    # (3 + 4 / 2) / (4 + 4) and (1 + 2) / 8
    found = stream_prior(StreamCounts(torch.tensor([3.0, 1.0]), torch.zeros(2), 4.0), settings).exp()
    torch.testing.assert_close(found, torch.tensor([0.625, 0.375]))


def test_a_class_that_is_merely_frequent_is_not_held_back() -> None:
    settings = replace(ONLINE, pseudo_images=1e-6, guard=2.0)
    frequent = torch.tensor([8.0, 1.0, 0.5, 0.5])
    even, favoured = torch.full((4,), 2.5), torch.tensor([7.0, 1.0, 1.0, 1.0])
    # content_free that favour nothing: 0.8 is cut to 2 * 0.25, then everything is renormalised over 0.7
    cut = torch.tensor([0.5, 0.1, 0.05, 0.05]) / 0.7
    torch.testing.assert_close(stream_prior(StreamCounts(frequent, even, 10.0), settings).exp(), cut, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        stream_prior(StreamCounts(frequent, favoured, 10.0), settings).exp(), frequent / 10, atol=1e-5, rtol=0
    )


def test_state_goes_on_where_it_stopped(policy: Policy) -> None:
    method = stream_method(ONLINE, "grpo-tta-online")
    whole, _ = method(policy, batch_of(policy, method, 16), {})
    first, state = method(policy, batch_of(policy, method, 8), {})
    second, _ = method(policy, batch_of(policy, method, 8, start=8), state)
    torch.testing.assert_close(torch.cat([first.after, second.after]), whole.after, atol=1e-4, rtol=1e-4)
    assert float(state["prior.count"]) == 8
    fresh, _ = method(policy, batch_of(policy, method, 8, start=8), {})
    assert (fresh.after - second.after).abs().max() > 1e-3


def test_a_batch_is_forgotten(policy: Policy) -> None:
    method = stream_method(replace(ONLINE, protocol="batch"), "grpo-tta-batch")
    whole, state = method(policy, batch_of(policy, method, 8), {})
    second, _ = method(policy, batch_of(policy, method, 4, start=4), {})
    assert state == {}
    torch.testing.assert_close(whole.after[4:], second.after, atol=1e-5, rtol=1e-5)


def test_the_model_is_bitwise_unchanged(policy: Policy) -> None:
    before = [p.detach().clone() for p in policy.backbone.parameters()]
    method = stream_method(ONLINE, "grpo-tta-online")
    method(policy, batch_of(policy, method), {})
    assert all(torch.equal(a, b) for a, b in zip(before, policy.backbone.parameters(), strict=True))


def test_a_full_anchor_forgets_the_parameters(policy: Policy) -> None:
    method = stream_method(replace(ONLINE, anchor=1.0), "grpo-tta-online")
    _, state = method(policy, batch_of(policy, method), {})
    parameter = dict(policy.backbone.blocks[0].named_parameters())["ln_1.weight"]
    torch.testing.assert_close(state["params.blocks.0.ln_1.weight"][0], parameter.detach())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"update_size": 0}, "update_size"),
        ({"anchor": 2.0}, "anchor"),
        ({"pseudo_images": 0.0}, "pseudo"),
        ({"guard": 0.0}, "guard"),
        ({"protocol": "episodic"}, "choose batch or online"),
        ({"grpo": replace(SMALL, views=ViewSettings(views=4, content_free=0))}, "guard needs content-free views"),
        ({"grpo": replace(SMALL, steps=Steps(max_kl=0.1))}, "max_kl"),
    ],
)
def test_bad_settings_name_the_remedy(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(ONLINE, **changes)
