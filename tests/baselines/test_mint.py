from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load, save
from torch.nn import functional as F

from grpo_tta.baselines.mint import ClassSums, MINTSettings, between_classes, drawn_prompts, mint_method
from grpo_tta.errors import UserError

STREAM = tuple("abcdef")
NOTHING = ClassSums(torch.zeros(3, 2), torch.zeros(3))


def test_sums_by_hand():
    seen = NOTHING.add(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([2, 2, 0]))
    assert seen.counts.tolist() == [1, 0, 2]
    torch.testing.assert_close(seen.mean, torch.tensor([2 / 3, 2 / 3]))
    torch.testing.assert_close(seen.means, torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.5, 0.5]]))


def test_variance_between_classes_by_hand():
    """Means (2, 0) of class 0 and (0, 3) of class 1, four and one images before: the mean of all is (1.6, 0.6).

    Now two images of class 0, (1, 0) and (3, 0), and one of class 1, (0, 3), each class with half of the weight.
    Total: (0.72 + 2.32) / 4 + 8.32 / 2 = 4.92. Within: (1 + 1) / 4 + 0.
    """
    seen = ClassSums(torch.tensor([[8.0, 0.0], [0.0, 3.0], [0.0, 0.0]]), torch.tensor([4.0, 1.0, 0.0]))
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
    assert between_classes(features, torch.tensor([0, 0, 1]), seen).item() == pytest.approx(4.92 - 0.5)


def test_prompts_are_drawn_by_hand():
    """Three images, prior 1: r = 3/4. Class 0 was seen at (0, 1), class 1 was not and keeps its direction."""
    seen = ClassSums(torch.tensor([[0.0, 3.0], [0.0, 0.0]]), torch.tensor([3.0, 0.0]))
    drawn = drawn_prompts(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), seen, 1.0)
    length = (0.25**2 + 0.75**2) ** 0.5
    torch.testing.assert_close(drawn, torch.tensor([[0.25 / length, 0.75 / length], [0.6, 0.8]]))


def test_equals_torch_adam_on_a_copy_of_the_model(policy, images):
    """Three pieces of two: the mean gradient of all pieces so far, one step of fresh Adam from the frozen weights."""
    method = mint_method(MINTSettings(update_size=2, learning_rate=1e-2, prior=5.0))
    batch = images(policy, method, STREAM)
    out, _ = method(policy, batch, {})

    text, scale = policy.text_features, policy.backbone.logit_scale
    sums, gradients, expected = (torch.zeros(5, 32), torch.zeros(5)), [], []
    frozen, adapted = ClassSums(*sums), ClassSums(*sums)
    for start in range(0, 6, 2):
        visual = copy.deepcopy(policy.backbone._model.visual).requires_grad_(False)
        norms = [m for name, m in visual.named_modules() if isinstance(m, torch.nn.LayerNorm) and name != "ln_pre"]
        parameters = [p.requires_grad_() for norm in norms for p in norm.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=1e-2)
        pixels = batch.views[start : start + 2, 0]
        z = F.normalize(visual(pixels), dim=-1)
        labels = (z @ text.T).argmax(-1)
        frozen = frozen.add(z.detach(), labels)
        (-between_classes(z, labels, frozen)).backward()
        gradients.append([p.grad.clone() for p in parameters])
        for number, p in enumerate(parameters):
            p.grad = torch.stack([each[number] for each in gradients]).mean(0)
        optimizer.step()
        with torch.no_grad():
            z = F.normalize(visual(pixels), dim=-1)
            adapted = adapted.add(z, (z @ text.T).argmax(-1))
            expected.append((scale * z @ drawn_prompts(text, adapted, 5.0).T).softmax(-1))
    torch.testing.assert_close(out.after.exp(), torch.cat(expected), atol=1e-3, rtol=0)
    assert (out.after - out.before).abs().max() > 1e-2


def test_a_stream_in_parts_is_the_stream(policy, images):
    method = mint_method(MINTSettings(update_size=2, prior=5.0))
    whole, end = method(policy, images(policy, method, STREAM), {})
    state, after = {}, []
    for names in (STREAM[:2], STREAM[2:]):
        out, state = method(policy, images(policy, method, names), load(save(state)))
        after.append(out.after)
    torch.testing.assert_close(torch.cat(after), whole.after, atol=1e-3, rtol=0)
    assert int(end["minibatches"]) == int(state["minibatches"]) == 3


def test_refuses_bad_settings():
    with pytest.raises(UserError, match="prior"):
        MINTSettings(prior=0.0)
