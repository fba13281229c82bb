"""A short name for a model's weights."""

from __future__ import annotations

import hashlib

from torch import nn


def fingerprint(model: nn.Module) -> str:
    """Changes whenever a weight or buffer does, but for changes that neither its sample nor its sum shows."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        # Some two thousand values and the sum of each tensor tell weights apart without hashing gigabytes.
        flat = tensor.flatten()
        sample = flat[:: max(1, flat.numel() // 2048)].float().cpu().contiguous()
        digest.update(sample.numpy().tobytes() + f"{float(flat.double().sum()):.9e}".encode())
    return digest.hexdigest()
