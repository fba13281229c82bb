"""The frozen pass in parts: by views, and on a CPU by bytes of tokens. Neither changes what it says."""

from __future__ import annotations

import pytest
import torch

from grpo_tta.engine import encode
from grpo_tta.engine.encode import encode_views
from grpo_tta.engine.policy import Policy

V, P, BLOCKS = 5, 2, 3


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("chunk", "together", "expected"), [(256, 100, [14]), (256, 4, [4, 4, 4, 2]), (6, 4, [4, 2, 4, 2, 2])])
def test_parts_change_nothing(
    chunk: int, together: int, expected: list[int], policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    views, content_free = drawn(2, V, 3, 32, 32), drawn(2, P, 3, 32, 32)
    whole = encode_views(policy, views, content_free, [0, BLOCKS])
    a_view = whole.tokens[0][0, 0].nbytes
    monkeypatch.setattr(encode, "_CPU_TOKENS", together * a_view + a_view // 2)
    seen: list[int] = []
    hook = policy.backbone.blocks[1].register_forward_pre_hook(lambda block, given: seen.append(len(given[0])))
    found = encode_views(policy, views, content_free, [0, BLOCKS], chunk=chunk)
    hook.remove()
    assert seen == expected
    assert found.views == V
    torch.testing.assert_close(found.features, whole.features)
    torch.testing.assert_close(found.log_probs, whole.log_probs)
    assert found.tokens.keys() == {0, BLOCKS}
    for index, tokens in found.tokens.items():
        assert tokens.shape[:2] == (2, V + P)
        torch.testing.assert_close(tokens, whole.tokens[index])


def test_a_view_larger_than_a_part_goes_alone(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "_CPU_TOKENS", 1)
    seen: list[int] = []
    hook = policy.backbone.blocks[0].register_forward_pre_hook(lambda block, given: seen.append(len(given[0])))
    encode_views(policy, drawn(1, 3, 3, 32, 32), drawn(1, 0, 3, 32, 32))
    hook.remove()
    assert seen == [1, 1, 1]


def test_maps_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "_CPU_TOKENS", 1)
    assert [part.shape for part in encode._together(drawn(3, 2, 4, 4))] == [(3, 2, 4, 4)]
