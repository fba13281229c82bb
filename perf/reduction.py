"""How often an answer changes where large photographs are reduced before views are cut from them.

    python perf/reduction.py PHOTOS.parquet --labels-file CLASSES.json --limit 100 --json build/reduction.json
    python perf/reduction.py PHOTOS.parquet --labels-file CLASSES.json --limit 40 --megapixels 12 --json build/reduction-12.json

The file has the column `image` (encoded bytes). Each photograph is answered reduced and in full resolution, with the same
random numbers, and once more in full resolution under another seed: so often an answer changes for no reason at all.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from PIL import Image

from grpo_tta import GRPOTTA, load_backbone
from grpo_tta.data.tasks import evenly
from grpo_tta.images.inputs import to_image
from grpo_tta.images.views import size_to_cut
from grpo_tta.method.settings import PRESETS


def photographs(file: Path, limit: int, megapixels: float | None) -> list[bytes]:
    """Encoded photographs, evenly from the whole file; enlarged to so many megapixels where they are given, as JPEG."""
    column = pq.read_table(file, columns=["image"])["image"]
    found = [column[number].as_py() for number in evenly(len(column), limit)]
    return found if megapixels is None else [_enlarged(content, megapixels) for content in found]


def _enlarged(content: bytes, megapixels: float) -> bytes:
    image = to_image(content)
    share = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
    buffer = io.BytesIO()
    size = round(image.width * share), round(image.height * share)
    image.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def compare(model: str, labels: Sequence[str], preset: str, images: Sequence[bytes]) -> dict[str, Any]:
    """Shares of answers that differ from those in full resolution, and mean absolute differences of probabilities."""
    backbone, settings = load_backbone(model), PRESETS[preset]
    full = replace(settings, views=replace(settings.views, full_resolution=True))
    makers = {"whole": (full, 0), "reduced": (settings, 0), "other seed": (full, 1)}
    probabilities = {}
    for name, (chosen, seed) in makers.items():
        answers = GRPOTTA(backbone, labels, settings=chosen, seed=seed, batch=4).predict_iter(images)
        probabilities[name] = torch.tensor([list(answer.probabilities.values()) for answer in answers])
    sizes = [image.size[::-1] for image in map(Image.open, map(io.BytesIO, images))]
    cut = [size_to_cut(*size, backbone.image_size, settings.views) for size in sizes]
    found: dict[str, Any] = {"model": model, "preset": preset, "images": len(images)}
    found["share_reduced"] = sum(size is not None for size in cut) / len(cut)
    whole = probabilities.pop("whole")
    for name, others in probabilities.items():
        changed = (whole.argmax(-1) != others.argmax(-1)).float().mean()
        found[name] = {"changed": float(changed), "apart": float((whole - others).abs().sum(-1).mean() / 2)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--megapixels", type=float)
    parser.add_argument("--models", default="photo-clip,nano-clip")
    parser.add_argument("--presets", default="default,fast")
    parser.add_argument("--labels-file", type=Path, required=True, help="a JSON object: key -> names, the usual one first")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    labels = sorted({names[0] for names in json.loads(given.labels_file.read_text()).values()})
    images = photographs(given.file, given.limit, given.megapixels)
    found = []
    print(f"{'model':12}{'preset':10}{'images':>8}{'reduced':>9}{'changed':>9}{'apart':>8}{'other seed':>12}{'apart':>8}")
    for model in given.models.split(","):
        for preset in given.presets.split(","):
            row = compare(model, labels, preset, images)
            found.append(row)
            print(f"{model:12}{preset:10}{row['images']:8}{row['share_reduced']:9.0%}", end="")
            for name, width in (("reduced", 9), ("other seed", 12)):
                print(f"{row[name]['changed']:{width}.1%}{row[name]['apart']:8.3f}", end="")
            print(flush=True)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
