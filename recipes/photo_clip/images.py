"""The photographs beside the project, decoded into one tensor a set, with the last images of every class held out."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from grpo_tta.data import photos


@final
@dataclass(frozen=True)
class Training:
    """
    Attributes:
        names: of each class, the usual one first.
        images, labels: to train on, uint8 `[N, 3, side, side]` and int64 `[N]`.
        watched, watched_labels: held out of the same files.
    """

    names: tuple[tuple[str, ...], ...]
    images: torch.Tensor
    labels: torch.Tensor
    watched: torch.Tensor
    watched_labels: torch.Tensor


def read(root: Path, which: photos.Which) -> Training:
    """Reads a `-train` file. What is held out is the tuning split of the photos suite.

    Raises:
        SystemExit: a file is missing.
    """
    file = root / f"{photos.FILES[which]}-train.parquet"
    if not file.is_file():
        raise SystemExit(f"{file} is missing; --photos-root names the folder that holds it.")
    table = pq.read_table(file, columns=["label", "image"])
    labels = table["label"].to_pylist()
    classes = sorted(set(labels))
    if which == "tiny":
        known: dict[str, list[str]] = json.loads((root / "tiny-imagenet-classes.json").read_text())
        names = tuple(tuple(known[c]) for c in classes)
    else:
        names = tuple((c,) for c in classes)
    number = {c: i for i, c in enumerate(classes)}
    held = np.zeros(len(labels), bool)
    held[photos.held_out(labels, photos.HELD_OUT[which])] = True
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(b.as_py())).convert("RGB")) for b in table["image"]])
    images, targets = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor([number[c] for c in labels])
    train, watch = torch.from_numpy(~held), torch.from_numpy(held)
    return Training(names, images[train], targets[train], images[watch], targets[watch])
