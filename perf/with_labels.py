"""How much faster `with_labels` is than a new `GRPOTTA`, for labels whose text is cached.

    python perf/with_labels.py --json build/with_labels.json   # a minute; 0.6 GB of disk in a temporary folder
    python perf/with_labels.py --model nano-clip

The model is an architecture of open_clip in its true size with random weights (nano-clip: its own). It is written to a folder
once and loaded from there. Both ways end with the same text features, and answer an image alike. Every round does both once.
The ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file

from grpo_tta.backbones.names import SHIPPED
from grpo_tta.bench.records import write_json
from grpo_tta.classifier import GRPOTTA
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.settings import GRPOSettings

FIRST = ("cat", "dog")
LABELS = ("star", "heart", "arrow", "house", "fish", "bird", "tree", "boat", "cup", "key")
FEW = GRPOSettings(views=ViewSettings(views=2, content_free=1))


def write_model(model: str, folder: Path) -> str:
    """Random weights of an architecture as a folder in open_clip's format; a shipped model's name as it is."""
    if model in SHIPPED:
        return model
    torch.manual_seed(0)
    network = open_clip.create_model(model, pretrained=None)
    config = {"model_cfg": open_clip.get_model_config(model), "preprocess_cfg": open_clip.get_model_preprocess_cfg(network)}
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "open_clip_model.safetensors")
    return str(folder)


def seconds(call: Callable[[], GRPOTTA]) -> tuple[float, GRPOTTA]:
    began = time.perf_counter()
    made = call()
    return time.perf_counter() - began, made


def measure(model: str, rounds: int) -> dict[str, float]:
    """Median milliseconds of either way, their ratio, and the largest difference of a probability."""
    loaded = GRPOTTA(model, FIRST, settings=FEW)
    loaded.with_labels(LABELS)  # the text of these labels is in the cache from here on
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    new, other = [], []
    for _ in range(rounds):
        took, fresh = seconds(lambda: GRPOTTA(model, LABELS, settings=FEW))
        new.append(took)
        took, shared = seconds(lambda: loaded.with_labels(LABELS))
        other.append(took)
    answers = [list(classifier.predict(image).probabilities.values()) for classifier in (fresh, shared)]
    return {
        "new_ms": 1000 * statistics.median(new),
        "with_labels_ms": 1000 * statistics.median(other),
        "ratio": statistics.median(a / b for a, b in zip(new, other, strict=True)),
        "largest_difference": max(abs(a - b) for a, b in zip(*answers, strict=True)),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-16", help="an architecture of open_clip, or nano-clip")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where the document goes; printed where not given")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(write_model(arguments.model, Path(folder) / "model"), arguments.rounds)
    document = {"model": arguments.model, "labels": len(LABELS), "rounds": arguments.rounds, **found}
    if arguments.json:
        write_json(arguments.json, document)
    else:
        print(json.dumps(document, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
