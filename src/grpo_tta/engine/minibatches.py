"""Batches in pieces of a method's own update size, whatever the runner hands over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from grpo_tta.engine.interface import ImageBatch
from grpo_tta.method.grpo import Adaptation


def pieces(batch: ImageBatch, size: int) -> Iterator[ImageBatch]:
    """Consecutive pieces of at most `size` images, in order."""
    for start in range(0, len(batch.image_ids), size):
        yield batch.part(slice(start, start + size))


def join(parts: Sequence[Adaptation]) -> Adaptation:
    """The outcome of consecutive pieces as one; their cost per image is the same."""
    before = torch.cat([part.before for part in parts])
    return Adaptation(before, torch.cat([part.after for part in parts]), parts[0].cost)
