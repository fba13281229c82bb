"""What the baselines ask of the optimizer beside the episodes: decoupled decay, and moments that survive a pause."""

from __future__ import annotations

import torch

from grpo_tta.engine.optim import Update


def test_weight_decay_shrinks_only_what_moves():
    """lr 0.1, decay 0.5, value 2, gradient 3: 2 (1 - 0.05) + 0.1 * 3 = 2.2; an image that stays keeps its 2."""
    update = Update("sgd", 0.1, None, weight_decay=0.5)
    value, gradient = torch.full((2, 1), 2.0), torch.full((2, 1), 3.0)
    moved, _ = update.ascend({"w": value}, [gradient], torch.tensor([True, False]))
    torch.testing.assert_close(moved["w"].detach(), torch.tensor([[2.2], [2.0]]))


def test_equals_adamw_and_resumes():
    values = torch.linspace(-1, 1, 6).reshape(1, 6)
    leaf = torch.nn.Parameter(values.clone())
    optimizer = torch.optim.AdamW([leaf], lr=0.01, weight_decay=0.1)
    tuned, state, one = {"w": values.clone()}, None, torch.tensor([True])
    for step in range(4):
        gradient = torch.sin(values * (step + 1))
        leaf.grad = -gradient.clone()
        optimizer.step()
        update = Update("adam", 0.01, None, weight_decay=0.1)
        if state is not None:
            update.restore(state)
        tuned, _ = update.ascend(tuned, [gradient], one)
        state = update.state()
    torch.testing.assert_close(tuned["w"].detach(), leaf.detach())
