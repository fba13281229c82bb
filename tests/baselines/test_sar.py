from __future__ import annotations

import copy
import math

import pytest
import torch
from safetensors.torch import load, save

from grpo_tta.baselines.sar import SARSettings, reliable_mean, sar_method, sharpest
from grpo_tta.engine.distributions import entropy
from grpo_tta.errors import UserError

STREAM = tuple("abcdef")
LOOSE = {"update_size": 2, "learning_rate": 1e-2, "collapse": 0.0}


def test_mean_of_the_reliable_by_hand():
    entropies = torch.tensor([0.2, 5.0, 0.6])
    assert reliable_mean(entropies, entropies < 1).item() == pytest.approx(0.4)
    assert reliable_mean(entropies, entropies < 0).item() == 0


def test_the_sharpest_point_is_a_radius_away_up_the_gradient():
    """The gradient (3, 4) over two parameters has length 5."""
    params = {"a": torch.tensor([[1.0]]), "b": torch.tensor([[1.0]])}
    moved = sharpest(params, [torch.tensor([[3.0]]), torch.tensor([[4.0]])], 0.05)
    torch.testing.assert_close(torch.stack([moved["a"], moved["b"]]).flatten(), torch.tensor([1.03, 1.04]))


def test_the_last_quarter_of_the_blocks_stays_as_it_is(backbone):
    names = SARSettings().tune(backbone).replaced
    assert {name.split(".")[1] for name in names} == {"0", "1"}  # of three blocks; no norm of the head
    assert {name.split(".")[1] for name in SARSettings(untuned=1.0).tune(backbone).replaced} == {"0"}


def test_equals_sharpness_aware_sgd_on_a_copy_of_the_model(policy, images):
    """Each piece holds an image that is reliable before the stream and one that is not."""
    margin, names, used = 1.601, "abcedf", []
    method = sar_method(SARSettings(**LOOSE | {"learning_rate": 0.5}, margin=margin / math.log(5), radius=0.05))
    batch = images(policy, method, names)
    assert ((entropy(batch.encoded.log_probs[:, 0]) < margin).unflatten(0, (3, 2)).sum(1) == 1).all()
    out, _ = method(policy, batch, {})

    visual = copy.deepcopy(policy.backbone._model.visual).requires_grad_(False)
    blocks = visual.transformer.resblocks[:2]
    norms = [m for block in blocks for m in block.modules() if isinstance(m, torch.nn.LayerNorm)]
    parameters = [p.requires_grad_() for norm in norms for p in norm.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.5, momentum=0.9)
    expected = []
    for start in range(0, 6, 2):
        pixels = batch.views[start : start + 2, 0]
        log_probs = policy.log_probs(visual(pixels))
        expected.append(log_probs.detach())
        first = entropy(log_probs) < margin
        gradients = torch.autograd.grad(entropy(log_probs)[first].mean(), parameters)
        length = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p.add_(0.05 * g / length)
        H = entropy(policy.log_probs(visual(pixels)))[first]
        used.append(int((margin > H).sum()))
        optimizer.zero_grad()
        H[margin > H].mean().backward()
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p.sub_(0.05 * g / length)
        optimizer.step()
    assert min(used) >= 1  # or the comparison were one of nothing
    torch.testing.assert_close(out.after.exp(), torch.cat(expected).exp(), atol=1e-4, rtol=0)
    assert (out.after[2:] - out.before[2:]).abs().max() > 1e-2


def test_a_stream_in_parts_is_the_stream(policy, images):
    method = sar_method(SARSettings(**LOOSE, margin=1.0))
    whole, end = method(policy, images(policy, method, STREAM), {})
    state, after = {}, []
    for names in (STREAM[:2], STREAM[2:]):
        out, state = method(policy, images(policy, method, names), load(save(state)))
        after.append(out.after)
    torch.testing.assert_close(torch.cat(after), whole.after, atol=1e-4, rtol=0)
    torch.testing.assert_close(state["entropy"], end["entropy"])


def test_unreliable_images_teach_nothing(policy, images):
    method = sar_method(SARSettings(**LOOSE, margin=1e-6))
    out, state = method(policy, images(policy, method, STREAM), {})
    torch.testing.assert_close(out.after, out.before, atol=1e-5, rtol=0)
    assert "entropy" not in state
    assert not any(value.any() for key, value in state.items() if key.startswith("velocity."))


def test_the_running_mean_by_hand_and_the_reset(policy, images):
    """0.9 of what was and 0.1 of what is new; a state that says 0.1 and sees about one nat is still below 0.2."""
    method = sar_method(SARSettings(update_size=2, margin=1.0, learning_rate=1e-12))
    batch = images(policy, method, STREAM[:2])
    _, state = method(policy, batch, {})
    seen = state["entropy"].item()
    assert 0.2 < seen < math.log(5)
    _, again = method(policy, batch, state | {"entropy": torch.tensor(1.0)})
    assert again["entropy"].item() == pytest.approx(0.9 + 0.1 * seen, abs=1e-3)
    _, reset = method(policy, batch, state | {"entropy": torch.tensor(0.0)})
    assert reset == {}


def test_refuses_bad_settings():
    with pytest.raises(UserError, match="radius"):
        SARSettings(radius=0.0)
