"""What rules that read distributions do on the embeddings of a real CLIP: entropies, weights, early exit, streams.

    python perf/real_clip.py clip-b32-caltech.npz --json real_clip.json   # seconds on one core

The file holds image features of Caltech101's test images by CLIP ViT-B/32, text features of their 45 classes, and text features
of 1,969 other names. So one task is seen with 45 labels, and with long lists of which 45 occur. There is one view per image:
this is a probe of rules, not of methods that need views. Labels serve to count alone.

- `labels`: by number of labels and by factor on the logit scale: accuracy, entropy and confidence (quantiles 10, 50, 90 %), and
  the share of images, and of rightly answered ones, that `fast` would answer after its first round, were its views alike.
- `stream`: accuracy less the unguarded stream prior by its weight, and of TDA, over 45 and all labels.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta.baselines.tda import TDASettings, add_negative, add_positive, cache_logits, empty_caches
from grpo_tta.bench.records import write_json
from grpo_tta.engine.distributions import entropy, relative_entropy
from grpo_tta.method.settings import FAST

LENGTHS = (45, 100, 1000, 2014)
SCALES = (0.5, 1.0, 2.0)
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
QUANTILES = (0.1, 0.5, 0.9)
PSEUDO_IMAGES = 16.0
Json = dict[str, Any]


@final
class Embeddings:
    """
    Attributes:
        images: `[N, D]`, unit length.
        text: `[C, D]`, the classes that occur first.
        labels: `[N]`.
        scale: of the logits.
    """

    def __init__(self, path: Path) -> None:
        with np.load(path) as found:
            self.images = F.normalize(torch.from_numpy(found["image_features"]).float(), dim=-1)
            both = np.concatenate([found["text_features"], found["other_text_features"]])
            self.text = F.normalize(torch.from_numpy(both).float(), dim=-1)
            self.labels = torch.from_numpy(found["labels"]).long()
            self.scale = float(found["logit_scale"])

    def log_probs(self, labels: int, factor: float = 1.0) -> Tensor:
        """`[N, C]` over the first C labels."""
        return (factor * self.scale * self.images @ self.text[:labels].T).log_softmax(-1)


def quantiles(values: Tensor) -> list[float]:
    return [round(float(value), 3) for value in values.quantile(torch.tensor(QUANTILES))]


def probe(found: Embeddings, labels: int, factor: float) -> Json:
    rule = FAST.early_exit
    assert rule is not None
    log_probs = found.log_probs(labels, factor)
    right = log_probs.argmax(-1) == found.labels
    confidence = 1 - relative_entropy(log_probs)
    best, second = log_probs.exp().topk(2).values.unbind(-1)
    # where the first three views say what this one says
    decided = (best - second) / (best + second) >= rule.share * (FAST.views.views - 3) / 3
    return {
        "labels": labels,
        "scale": factor,
        "accuracy": 100 * right.double().mean().item(),
        "entropy_nats": quantiles(entropy(log_probs)),
        "confidence": quantiles(confidence),
        "decided": 100 * decided.double().mean().item(),
        "decided_of_right": 100 * decided[right].double().mean().item(),
    }


def with_prior(log_probs: Tensor, order: Tensor, weight: float) -> Tensor:
    """Answers `[N]` less `weight` times the log of the running mean prediction, the image itself included."""
    C = log_probs.shape[1]
    seen = log_probs[order].exp().cumsum(0)
    count = torch.arange(1, len(order) + 1)[:, None]
    prior = ((seen + PSEUDO_IMAGES / C) / (count + PSEUDO_IMAGES)).log()
    answers = torch.empty_like(order)
    answers[order] = (log_probs[order] - weight * prior).argmax(-1)
    return answers


def tda(found: Embeddings, labels: int, order: Tensor) -> Tensor:
    """TDA's answers `[N]` with its official settings."""
    settings, log_probs = TDASettings(), found.log_probs(labels)
    text = found.text[:labels]
    caches = empty_caches(labels, text.shape[1], settings, text.device)
    answers = torch.empty_like(order)
    for number in order.tolist():
        feature = found.images[number]
        add_positive(caches, feature, log_probs[number])
        add_negative(caches, feature, log_probs[number], settings)
        answers[number] = (found.scale * text @ feature + cache_logits(caches, feature, settings)).argmax()
    return answers


def stream(found: Embeddings, labels: int, seeds: Sequence[int]) -> Json:
    """Mean accuracy over orders of the images."""

    def accuracy(answers: Tensor) -> float:
        return 100 * (answers == found.labels).double().mean().item()

    orders = [torch.randperm(len(found.labels), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    log_probs = found.log_probs(labels)
    row: Json = {"labels": labels}
    for weight in WEIGHTS:
        row[f"prior {weight}"] = math.fsum(accuracy(with_prior(log_probs, order, weight)) for order in orders) / len(orders)
    row["tda"] = math.fsum(accuracy(tda(found, labels, order)) for order in orders) / len(orders)
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, default=3, help="orders of the stream")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    found = Embeddings(given.file)
    lengths = [length for length in LENGTHS if length <= len(found.text)]
    result = {
        "labels": [probe(found, labels, scale) for labels in lengths for scale in SCALES],
        "stream": [stream(found, labels, range(given.seeds)) for labels in (lengths[0], lengths[-1])],
    }
    for rows in result.values():
        for row in rows:
            print(json.dumps({key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}))
    if given.json:
        write_json(given.json, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
