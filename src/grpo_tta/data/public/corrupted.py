"""The fifteen corruptions of ImageNet-C (Hendrycks & Dietterich 2019, arXiv 1903.12261) at severities 1 to 5.

Made by `imagecorruptions` in its maintained release imagecorruptions-imaug: the first one, last released in 2020, breaks
with current scikit-image and NumPy, the paper's own imagenet-c also needs ImageMagick, and general augmentation libraries
have other severities. It is an optional dependency: pip install "grpo-tta[corruptions]".

Everything random is seeded by (corruption, severity, image) and not by the run's seed: a corrupted data set is a data
set, the same in every run.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from grpo_tta.data.tasks import Task, random_key
from grpo_tta.errors import UserError

CORRUPTION_GROUPS: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
CORRUPTIONS = tuple(name for names in CORRUPTION_GROUPS.values() for name in names)
SEVERITIES = (1, 2, 3, 4, 5)
_RESIZE, _CROP, _SMALLEST = 256, 224, 32
_SEEDED_BY_ARGUMENT = ("impulse_noise", "glass_blur")  # these two draw from generators of their own
_numpy_state = threading.Lock()  # the library draws from NumPy's global generator, which one call at a time may use


def check_corruptions(names: Sequence[str], severities: Sequence[int]) -> None:
    """
    Raises:
        UserError: an unknown corruption or severity.
    """
    for name in names:
        if name not in CORRUPTIONS:
            raise UserError(f"Unknown corruption {name!r}; choose from all, {', '.join(CORRUPTIONS)}.")
    for severity in severities:
        if severity not in SEVERITIES:
            raise UserError(f"Severity {severity} does not exist; use 1, 2, 3, 4 or 5.")


def centre_crop(image: Image.Image) -> Image.Image:
    """What ImageNet-C corrupts: shorter side to 256, then the central 224 x 224. Smaller images stay whole, for the
    severities are set for 224 pixels and enlarging would blur."""
    if min(image.size) < _CROP:
        return image
    scale = _RESIZE / min(image.size)
    width, height = (max(_RESIZE, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - _CROP) // 2, (height - _CROP) // 2
    return image.crop((left, top, left + _CROP, top + _CROP))


def corrupt(image: Image.Image, name: str, severity: int, key: str) -> Image.Image:
    """One corruption of an RGB image at the size it has.

    Args:
        key: of the image; the same key gives the same corruption.

    Raises:
        UserError: unknown name or severity, an image below 32 pixels, or the library is not installed.
    """
    check_corruptions([name], [severity])
    if min(image.size) < _SMALLEST:
        raise UserError(f"{image.width} x {image.height} pixels are too few to corrupt; {_SMALLEST} are needed.")
    try:
        from imagecorruptions import corrupt as run
    except ImportError:
        raise UserError('Corruptions need a library that is not installed: pip install "grpo-tta[corruptions]".') from None
    seed = int.from_bytes(hashlib.blake2b(f"{name}\n{severity}\n{key}".encode(), digest_size=4).digest(), "big")
    options = {"seed": seed} if name in _SEEDED_BY_ARGUMENT else {}
    with _numpy_state:
        before = np.random.get_state()
        np.random.seed(seed)
        try:
            made = run(np.asarray(image), severity=severity, corruption_name=name, **options)
        finally:
            np.random.set_state(before)
    return Image.fromarray(made)


def corrupted_tasks(tasks: Sequence[Task], names: Sequence[str], severities: Sequence[int]) -> list[Task]:
    """Every task under every corruption and severity, made as the images are read.

    Raises:
        UserError: an unknown corruption or severity.
    """
    check_corruptions(names, severities)
    return [_corrupted(task, name, severity) for task in tasks for name in names for severity in severities]


def _corrupted(task: Task, name: str, severity: int) -> Task:
    def load(number: int) -> tuple[Image.Image, int]:
        image, label = task.load(number)
        return corrupt(centre_crop(image.convert("RGB")), name, severity, random_key(task, number, image)), label

    source = {**task.source, "corruption": name, "severity": severity} if task.source else {}
    return replace(task, name=f"{task.name}-{name}-{severity}", kind="shifted", load=load, source=source)
