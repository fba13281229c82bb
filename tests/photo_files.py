"""Files laid out like the photographs beside the project, filled with small coloured noise."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

TINY = {
    "n02123045": ["tabby", "tabby cat"],
    "n02123394": ["Persian cat"],
    "n03662601": ["lifeboat"],
    "n12267677": ["acorn"],
}
CIFAR = ("airplane", "cat", "ship")


def drawing(rng: np.random.Generator, side: int) -> bytes:
    colour = rng.integers(0, 256, 3)
    pixels = np.clip(colour + rng.normal(0, 40, (side, side, 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_photos(root: Path, per_class: int) -> None:
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for stem, labels, side in (("tiny-imagenet", tuple(TINY), 64), ("cifar10", CIFAR, 32)):
        for part in ("train", "val" if stem == "tiny-imagenet" else "test"):
            rows = [
                {"image_id": f"{part}/{i:05d}", "label": labels[i % len(labels)], "image": drawing(rng, side)}
                for i in range(per_class * len(labels))
            ]
            pd.DataFrame(rows).to_parquet(root / f"{stem}-{part}.parquet")
    (root / "tiny-imagenet-classes.json").write_text(json.dumps(TINY))
