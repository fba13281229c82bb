from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load, save

from grpo_tta.baselines.tent import TentSettings, tent_method
from grpo_tta.engine.distributions import entropy
from grpo_tta.errors import UserError

STREAM = tuple("abcdef")


def run(policy, images, method, parts):
    """A stream in the given parts, its state through safetensors between them."""
    state, after = {}, []
    for names in parts:
        out, state = method(policy, images(policy, method, names), state)
        after.append(out.after)
        state = load(save(state))
    return torch.cat(after), state


def test_the_first_piece_is_predicted_before_the_update_and_the_next_after_it(policy, images):
    method = tent_method(TentSettings(update_size=3, learning_rate=1e-2))
    batch = images(policy, method, STREAM)
    out, _ = method(policy, batch, {})
    torch.testing.assert_close(out.after[:3], out.before[:3], atol=1e-5, rtol=0)
    assert (out.after[3:] - out.before[3:]).abs().max() > 1e-3


def test_pieces_are_the_update_size_whatever_the_runner_hands_over(policy, images):
    method = tent_method(TentSettings(update_size=2, learning_rate=1e-2))
    whole, _ = run(policy, images, method, [STREAM])
    parts, state = run(policy, images, method, [STREAM[:2], STREAM[2:4], STREAM[4:]])
    torch.testing.assert_close(whole, parts, atol=1e-4, rtol=0)
    assert int(state["optimizer.count"]) == 3


def test_equals_torch_adam_on_a_copy_of_the_model(policy, images):
    """Three pieces of two against torch's own Adam on the norms of a real copy (all but ln_pre)."""
    method = tent_method(TentSettings(update_size=2, learning_rate=1e-3))
    batch = images(policy, method, STREAM)
    out, _ = method(policy, batch, {})
    visual = copy.deepcopy(policy.backbone._model.visual).requires_grad_(False)
    norms = [m for name, m in visual.named_modules() if isinstance(m, torch.nn.LayerNorm) and name != "ln_pre"]
    parameters = [p.requires_grad_() for norm in norms for p in norm.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    expected = []
    for start in range(0, 6, 2):
        optimizer.zero_grad()
        log_probs = policy.log_probs(visual(batch.views[start : start + 2, 0]))
        entropy(log_probs).mean().backward()
        optimizer.step()
        expected.append(log_probs.detach())
    torch.testing.assert_close(out.after.exp(), torch.cat(expected).exp(), atol=1e-3, rtol=0)


def test_refuses_an_empty_piece():
    with pytest.raises(UserError, match="update_size"):
        TentSettings(update_size=0)
