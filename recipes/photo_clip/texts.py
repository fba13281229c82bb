"""Captions of photographs whose class alone is known: a template around one of its names."""

from __future__ import annotations

import torch

TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a picture of a {}.",
    "an image of a {}.",
    "{}.",
    "a good photo of a {}.",
    "a bad photo of a {}.",
    "a blurry photo of a {}.",
    "a close-up photo of a {}.",
    "a photo of one {}.",
    "this is a {}.",
    "there is a {} in the picture.",
)


def captions(names: tuple[str, ...]) -> list[str]:
    """All captions of a class, `len(names) * len(TEMPLATES)`, those with its usual name first."""
    return [template.format(name) for name in names for template in TEMPLATES]


def draw(counts: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The number of one caption for each class, int64 `[C]`: its usual name half of the time, else any of its names.

    Args:
        counts: how many names each class has, int64 `[C]`.
    """
    any_name = (torch.rand(len(counts), generator=generator) * counts).long()
    usual = torch.rand(len(counts), generator=generator) < 0.5
    template = torch.randint(len(TEMPLATES), (len(counts),), generator=generator)
    return torch.where(usual, 0, any_name) * len(TEMPLATES) + template
