"""What the shipped models know, and what to say of images and labels that lie outside. No Gradio."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from grpo_tta.data import nano

DRAWINGS, PHOTOGRAPHS = "nano-clip", "photo-clip"
KNOWS = {
    DRAWINGS: "nano-clip knows drawings of the nano suite alone: shapes, digits, colours and textures of 64 × 64 pixels.",
    PHOTOGRAPHS: "photo-clip knows small photographs of 200 everyday classes and of CIFAR-10's ten, and little beyond.",
}
"""Model -> a sentence."""
PHOTO_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""CIFAR-10's classes, which photo-clip has seen most of."""
_SMALL = 96
_COLOURS, _FEW_COLOURS, _DETAIL, _DETAILED = 400, 25, 8, 0.18


def knows(model: str) -> str:
    """What a model knows, as a sentence; of models that are not shipped, that the page cannot say."""
    return KNOWS.get(model, f"What {model} knows depends on what it was trained on.")


def is_photograph(image: Image.Image) -> bool | None:
    """Whether an RGB image looks like a photograph: its colours are many, or fine detail is all over it.

    On 500 photographs of ImageNet 98 % do, and 30 % of the nano suite's drawings when they are enlarged.

    Returns:
        None where the shorter side is below 96 pixels: so small a drawing has as much detail as a photograph.
    """
    if min(image.size) < _SMALL:
        return None
    small = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR), dtype=np.int64) >> 3
    colours = len(np.unique(small @ np.array([1 << 10, 1 << 5, 1])))
    return colours > _COLOURS or (colours > _FEW_COLOURS and _detail(image) > _DETAILED)


def _detail(image: Image.Image) -> float:
    """Share of the pixels whose brightness differs from that of their four neighbours, at 256 pixels for the longer side."""
    reduced = image.convert("L")
    reduced.thumbnail((256, 256), Image.Resampling.BOX)
    grey = np.pad(np.asarray(reduced, dtype=np.int64), 1, mode="edge")
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((abs(4 * grey[1:-1, 1:-1] - around) > _DETAIL).mean())


def warnings_of(model: str, labels: Sequence[str], photograph: bool | None) -> list[str]:
    """A sentence on whatever lies outside of what a shipped model knows.

    Args:
        photograph: the image looks like one; None where that cannot be said, since it is small or was shifted.
    """
    found = []
    if model == DRAWINGS:
        if photograph:
            found.append(f"This looks like a photograph. {KNOWS[DRAWINGS]} Choose another model for it.")
        known = {name.casefold() for task in nano.TASKS.values() for name in task.classes}
        if strange := [label for label in labels if label.casefold() not in known]:
            names = ", ".join(strange[:3]) + (f" and {len(strange) - 3} more" if len(strange) > 3 else "")
            found.append(f"nano-clip has never met these labels: {names}. Its answer on them is a guess.")
    elif model == PHOTOGRAPHS and photograph is False:
        found.append(f"This does not look like a photograph. {KNOWS[PHOTOGRAPHS]}")
    return found


def warnings_of_many(model: str, labels: Sequence[str], photographs: Sequence[bool | None]) -> list[str]:
    """The same of several images.

    Args:
        photographs: which of the images that could be read look like one.
    """
    found = warnings_of(model, labels, None)
    count, others, total = photographs.count(True), photographs.count(False), len(photographs)
    if model == DRAWINGS and count:
        found.insert(0, f"{count} of {total} images look like photographs. {KNOWS[DRAWINGS]} Choose another model for them.")
    elif model == PHOTOGRAPHS and others:
        found.append(f"{others} of {total} images do not look like photographs. {KNOWS[PHOTOGRAPHS]}")
    return found
