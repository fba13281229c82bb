"""Steps by hand, AdamW against torch's, and per-image norms."""

from __future__ import annotations

import torch

from grpo_tta.engine.optim import SGD, Adam, Update, gradient_norm


def test_steps_by_hand() -> None:
    params = {"a": torch.zeros(2, 2), "b": torch.zeros(2, 1)}
    gradients = [torch.tensor([[3.0, 0.0], [0.3, 0.0]]), torch.tensor([[4.0], [0.4]])]
    torch.testing.assert_close(gradient_norm(gradients), torch.tensor([5.0, 0.5]))
    moved, norm = SGD(0.1, max_norm=1.0).start().ascend(params, gradients, torch.tensor([True, True]))
    torch.testing.assert_close(norm, torch.tensor([5.0, 0.5]))
    torch.testing.assert_close(moved["a"], torch.tensor([[0.06, 0.0], [0.03, 0.0]]))  # clipped to norm 1; left alone
    torch.testing.assert_close(moved["b"], torch.tensor([[0.08], [0.04]]))
    moved, _ = Adam(0.1).start().ascend(params, gradients, torch.tensor([True, False]))
    torch.testing.assert_close(moved["a"], torch.tensor([[0.1, 0.0], [0.0, 0.0]]))
    update = Adam(0.1).start()
    update.ascend(params, gradients, torch.tensor([True, True]))
    moved, _ = update.ascend(params, gradients, torch.tensor([True, False]))
    assert moved["a"][0, 0] > 0.05
    assert torch.equal(moved["b"][1], torch.zeros(1))  # no step on what is left of the one before
    moved, _ = SGD(0.1, max_norm=None).start().ascend(params, [gradients[0] / 0, gradients[1]], torch.tensor([True, True]))
    assert torch.equal(moved["b"], torch.zeros(2, 1))  # a gradient that is not finite moves nothing


def test_weight_decay_shrinks_only_what_moves() -> None:
    """lr 0.1, decay 0.5, value 2, gradient 3: 2 (1 - 0.05) + 0.1 * 3 = 2.2; an image that stays keeps its 2."""
    update = Update(0.1, None, adaptive=False, weight_decay=0.5)
    value, gradient = torch.full((2, 1), 2.0), torch.full((2, 1), 3.0)
    moved, _ = update.ascend({"w": value}, [gradient], torch.tensor([True, False]))
    torch.testing.assert_close(moved["w"].detach(), torch.tensor([[2.2], [2.0]]))


def test_equals_adamw_and_resumes() -> None:
    values = torch.linspace(-1, 1, 6).reshape(1, 6)
    leaf = torch.nn.Parameter(values.clone())
    optimizer = torch.optim.AdamW([leaf], lr=0.01, weight_decay=0.1)
    params, state, one = {"w": values.clone()}, None, torch.tensor([True])
    for step in range(4):
        gradient = torch.sin(values * (step + 1))
        leaf.grad = -gradient.clone()
        optimizer.step()
        update = Adam(0.01, weight_decay=0.1).start()
        if state is not None:
            update.restore(state)
        params, _ = update.ascend(params, [gradient], one)
        state = update.state()
    torch.testing.assert_close(params["w"].detach(), leaf.detach())
