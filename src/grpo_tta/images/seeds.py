"""Random numbers that belong to one image: an episodic result depends on the image, the settings and the seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def image_generator(seed: int, image_id: str, purpose: str) -> torch.Generator:
    """The CPU generator of one image, seeded by (run seed, purpose, image id): no global state, no loader order.

    Crops, copies and Gumbel noise each have their own, so that more of one does not change the others.
    """
    digest = hashlib.blake2b(f"{seed}\n{purpose}\n{image_id}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def gumbel_noise(seed: int, image_ids: Sequence[str], views: int, classes: int) -> Tensor:
    """Standard Gumbel noise `[B, M, C]`, -log(-log u), from each image's own generator."""
    uniform = torch.stack([torch.rand((views, classes), generator=image_generator(seed, name, "gumbel")) for name in image_ids])
    tiny = torch.finfo(uniform.dtype).tiny
    return -(-uniform.clamp_min(tiny).log()).clamp_min(tiny).log()
