"""Random numbers that belong to one image: an episodic result depends on the image, the settings and the seed alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


def image_generator(seed: int, image_id: str, purpose: str) -> torch.Generator:
    """The CPU generator of one image, seeded by (run seed, purpose, image id): no global state, no loader order.

    Crops, copies and Gumbel noise each have their own, so that more of one does not change the others.
    """
    digest = hashlib.blake2b(f"{seed}\n{purpose}\n{image_id}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


@final
@dataclass(frozen=True)
class ImageNoise:
    """Random numbers for the groups of B images, each from the image's own generator.

    Attributes:
        seed: of the run.
        image_ids: one per image.
    """

    seed: int
    image_ids: tuple[str, ...]

    def gumbel(self, views: int, classes: int) -> Tensor:
        """Standard Gumbel noise `[B, views, C]`, -log(-log u)."""
        generators = [image_generator(self.seed, name, "gumbel") for name in self.image_ids]
        uniform = torch.stack([torch.rand((views, classes), generator=generator) for generator in generators])
        tiny = torch.finfo(uniform.dtype).tiny
        return -(-uniform.clamp_min(tiny).log()).clamp_min(tiny).log()
