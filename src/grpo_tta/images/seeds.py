"""Random numbers that belong to one image: an episodic result depends on the image, the settings and the seed alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


def image_generator(seed: int, image_id: str, purpose: str) -> torch.Generator:
    """The CPU generator of one image, seeded by (run seed, purpose, image id): no global state, no loader order.

    The purposes are `crops`, `copies` (the patches' orders of content-free views), `gumbel`, and those of baselines: `masks`,
    `recalled` and `perturbed prompts`. Each has its own generator, so that more of one does not change the others. Their names
    never change: results depend on them.
    """
    digest = hashlib.blake2b(f"{seed}\n{purpose}\n{image_id}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


@final
@dataclass(frozen=True)
class ImageNoise:
    """Noise for the candidates of B images, each from its own generator.

    Attributes:
        seed: of the run.
        image_ids: name the images; with the seed they decide every number.
    """

    seed: int
    image_ids: tuple[str, ...]

    def gumbel(self, views: int, classes: int) -> Tensor:
        """Standard Gumbel noise -log(-log u): `[B, views, C]`."""
        generators = [image_generator(self.seed, name, "gumbel") for name in self.image_ids]
        uniform = torch.stack([torch.rand((views, classes), generator=generator) for generator in generators])
        tiny = torch.finfo(uniform.dtype).tiny
        return -(-uniform.clamp_min(tiny).log()).clamp_min(tiny).log()
