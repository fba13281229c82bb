"""Accuracy against cost of the ways to spend less on views: options that were tried, most of which the library leaves out.

    python perf/fewer_views.py --limit 100 --json build/fewer.json   # tuning split of the nano suite, minutes on 2 cores

No policy step is taken: the prediction is the default's confidence-weighted mean. The unit of cost is one forward pass of one
view at full size. A pass over part of the tokens or of the blocks counts as that part, and view 0 always counts.

- `first`: the first V of the same views.
- `gate`: all views only where the entropy of view 0 is above the threshold, view 0 alone elsewhere.
- `rounds`: what the library does (`Rounds`). Views come in rounds until the lead of the best class over the second, relative to
  what both hold, is above a share of what is left. A view that is left weighs what an encoded view weighs on average.
- `sequential`: views one after another until no view that is left could change the best class (share 1). With a smaller share
  it stops when the lead of the best class is above that share of what is left.
- `smaller`: crops at fewer pixels, with interpolated positions.
- `tokens`: a crop is a rectangle of view 0's own tokens, positions kept: no pixels are resampled.
- `early`: all views through the first blocks, and only those of lowest entropy there through the rest.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_tta.backbones.base import load_backbone
from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.bench.records import write_json
from grpo_tta.data.tasks import SHIFTED_MEAN, nano_tasks
from grpo_tta.engine.distributions import entropy, most_confident, relative_entropy, take_views, weighted_log_mean
from grpo_tta.engine.early_exit import Rounds
from grpo_tta.engine.encode import encode_images
from grpo_tta.engine.policy import Policy
from grpo_tta.images.read import to_rgb
from grpo_tta.images.seeds import image_generator
from grpo_tta.images.views import draw_boxes
from grpo_tta.method.settings import DEFAULT
from grpo_tta.method.weighting import ByEntropy
from grpo_tta.report.statistics import mean_interval

V = DEFAULT.views.views
SHARPNESS = DEFAULT.weighting.sharpness if isinstance(DEFAULT.weighting, ByEntropy) else 0.0
CHUNK = 20


@final
@dataclass(frozen=True)
class Answers:
    """Of one option on some images: the predicted classes `[N]`, and passes of a full view per image `[N]`."""

    classes: Tensor
    cost: Tensor


def vote(log_probs: Tensor, view_mask: Tensor | None = None) -> Tensor:
    """The default's ensemble prediction: `[B, V, C]`, and of which views if not all, `[B, V]` -> `[B]` classes."""
    if view_mask is None:
        view_mask = torch.ones(log_probs.shape[:2], dtype=torch.bool)
    return weighted_log_mean(log_probs, DEFAULT.weighting(log_probs, view_mask)).argmax(-1)


def fixed(classes: Tensor, cost: float) -> Answers:
    return Answers(classes, torch.full((len(classes),), float(cost)))


def first(log_probs: Tensor, count: int) -> Answers:
    return fixed(vote(log_probs[:, :count]), count)


def gate(log_probs: Tensor, threshold: float) -> Answers:
    certain = entropy(log_probs[:, 0]) < threshold
    classes = torch.where(certain, log_probs[:, 0].argmax(-1), vote(log_probs))
    return Answers(classes, torch.where(certain, 1.0, float(log_probs.shape[1])))


def rounds(log_probs: Tensor, share: float) -> Answers:
    view_mask = Rounds(share).view_mask(log_probs)
    return Answers(vote(log_probs, view_mask), view_mask.sum(1).float())


def sequential(log_probs: Tensor, share: float) -> Answers:
    """A view weighs exp(-a H / log C), at most one: a lead above the number of views left cannot be overtaken."""
    B, count, _ = log_probs.shape
    total = (log_probs.exp() * (-SHARPNESS * relative_entropy(log_probs)).exp()[..., None]).cumsum(1)  # [B, V, C]
    best, second = total.topk(2, dim=-1).values.unbind(-1)
    left = torch.arange(count - 1, -1, -1)
    stop = (best - second >= share * left).int().argmax(1)  # nothing is left at the last view, so every row stops
    return Answers(total[torch.arange(B), stop].argmax(-1), stop + 1.0)


@final
class Encoder:
    """nano-clip's image backbone with other sizes of images and of token sets than it was made for."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._visual: Any = policy.backbone._model.visual  # type: ignore[attr-defined]
        self.grid: int = self._visual.grid_size[0]

    def _positions(self, grid: int) -> Tensor:
        table = self._visual.positional_embedding
        if grid == self.grid:
            return table
        square = table[1:].T.unflatten(1, (self.grid, self.grid))[None]
        resized = F.interpolate(square, (grid, grid), mode="bicubic", antialias=True, align_corners=False)
        return torch.cat([table[:1], resized[0].flatten(1).T])

    def embed(self, pixels: Tensor) -> Tensor:
        """`[N, 3, S, S]` of any multiple of the patch -> `[N, 1 + T, W]`."""
        patches = self._visual.conv1(pixels)
        tokens = torch.cat([self._visual.class_embedding.expand(len(pixels), 1, -1), patches.flatten(2).mT], dim=1)
        return self._visual.ln_pre(tokens + self._positions(patches.shape[-1]))

    def through(self, tokens: Tensor, begin: int, end: int | None = None) -> Tensor:
        for block in self._policy.backbone.blocks[begin:end]:
            tokens = block(tokens)
        return tokens

    def read(self, tokens: Tensor) -> Tensor:
        """Log-probabilities from the class token of any block: `[N, T, W]` -> `[N, C]`."""
        return self._policy.log_probs(self._policy.backbone.head(tokens[:, :1]))


def smaller(encoder: Encoder, log_probs: Tensor, views: Tensor, count: int, grid: int) -> Answers:
    B, size = len(views), views.shape[-1] * grid // encoder.grid
    crops = F.interpolate(views[:, 1:count].flatten(0, 1), (size, size), mode="bilinear", antialias=True, align_corners=False)
    log_probs_of_crops = encoder.read(encoder.through(encoder.embed(crops), 0)).unflatten(0, (B, -1))
    cost = 1 + (count - 1) * (1 + grid**2) / (1 + encoder.grid**2)
    return fixed(vote(torch.cat([log_probs[:, :1], log_probs_of_crops], 1)), cost)


def tokens(
    encoder: Encoder,
    log_probs: Tensor,
    views: Tensor,
    ids: tuple[str, ...],
    count: int,
    scale: tuple[float, float],
    seed: int,
) -> Answers:
    B, side = len(views), encoder.grid
    embedded = encoder.embed(views[:, 0])
    settings = replace(DEFAULT.views, crop_scale=scale)
    rows, cost = [], torch.ones(B)
    for b in range(B):
        boxes, _ = draw_boxes(image_generator(seed, ids[b], "crops"), count - 1, side, side, settings)
        of_image = [log_probs[b, 0]]
        for top, left, height, width in boxes.round().long().tolist():
            kept = torch.zeros(side, side, dtype=torch.bool)
            kept[min(top, side - 1) : top + max(1, height), min(left, side - 1) : left + max(1, width)] = True
            chosen = embedded[b : b + 1, torch.cat([torch.ones(1, dtype=torch.bool), kept.flatten()])]
            of_image.append(encoder.read(encoder.through(chosen, 0))[0])
            cost[b] += chosen.shape[1] / embedded.shape[1]
        rows.append(torch.stack(of_image))
    return Answers(vote(torch.stack(rows)), cost)


def early(encoder: Encoder, views: Tensor, blocks: int, kept: int) -> Answers:
    B, count = views.shape[:2]
    depth = len(encoder._policy.backbone.blocks)
    halfway = encoder.through(encoder.embed(views.flatten(0, 1)), 0, blocks).unflatten(0, (B, count))
    guess = encoder.read(halfway.flatten(0, 1)).unflatten(0, (B, count))
    chosen = take_views(halfway, most_confident(guess, kept))
    finished = encoder.read(encoder.through(chosen.flatten(0, 1), blocks)).unflatten(0, (B, kept))
    return fixed(vote(finished), count * blocks / depth + kept * (1 - blocks / depth))


def options(encoder: Encoder, seed: int) -> dict[str, Callable[[Tensor, Tensor, tuple[str, ...]], Answers]]:
    """Name -> (log-probabilities `[B, V, C]` and pixels `[B, V, 3, S, S]` of all views, image ids) -> answers."""
    every: dict[str, Callable[[Tensor, Tensor, tuple[str, ...]], Answers]] = {}
    for n in (1, 4, 6, 7, 8, 12, 16, V):
        every[f"first {n}"] = lambda p, v, i, n=n: first(p, n)
    for t in (0.1, 0.2, 0.4, 0.7, 1.0, 1.5):
        every[f"gate {t}"] = lambda p, v, i, t=t: gate(p, t)
    for s in (0.3, 0.16, 0.12, 0.08, 0.06, 0.04):
        every[f"rounds {s}"] = lambda p, v, i, s=s: rounds(p, s)
    for s in (1.0, 0.25, 0.06, 0.03):
        every[f"sequential {s}"] = lambda p, v, i, s=s: sequential(p, s)
    for g in (5, 4, 3):
        for n in (8, 12, V):
            every[f"smaller {n} x {8 * g} px"] = lambda p, v, i, n=n, g=g: smaller(encoder, p, v, n, g)
    for scale in ((0.5, 1.0), (0.3, 0.7)):
        every[f"tokens {V} x {scale[0]} to {scale[1]}"] = lambda p, v, i, s=scale: tokens(encoder, p, v, i, V, s, seed)
    for b in (1, 2, 3, 4):
        for k in (6, 12):
            every[f"early {k} of {V} after {b}"] = lambda p, v, i, b=b, k=k: early(encoder, v, b, k)
    return every


@torch.no_grad()
def measure(split: str, limit: int, seed: int) -> dict[str, Any]:
    """Every option on the shifted tasks of the nano suite, with its difference to all views."""
    backbone = load_backbone("nano-clip")
    correct: dict[str, list[np.ndarray]] = {}
    cost: dict[str, list[float]] = {}
    flips: dict[str, list[float]] = {}
    for task in nano_tasks(None, split, limit):
        if task.kind not in SHIFTED_MEAN:
            continue
        policy = Policy(backbone, make_prompts(backbone, task.classes, (task.template,)))
        right: dict[str, list[Tensor]] = {}
        for begin in range(0, len(task.image_ids), CHUNK):
            numbers = range(begin, min(begin + CHUNK, len(task.image_ids)))
            pairs = [task.load(number) for number in numbers]
            ids = tuple(task.image_ids[number] for number in numbers)
            labels = torch.tensor([label for _, label in pairs])
            settings = replace(DEFAULT.views, content_free=0)
            batch = encode_images(policy, [to_rgb(image) for image, _ in pairs], ids, settings, seed)
            views, log_probs = batch.views, batch.encoded.log_probs
            for name, option in options(Encoder(policy), seed).items():
                answers = option(log_probs, views, ids)
                right.setdefault(name, []).append(answers.classes == labels)
                cost.setdefault(name, []).extend(answers.cost.tolist())
                flips.setdefault(name, []).extend((answers.classes != vote(log_probs)).tolist())
        for name, found in right.items():
            correct.setdefault(name, []).append(torch.cat(found).numpy().astype(float))
    return {
        "split": split,
        "limit": limit,
        "seed": seed,
        "tasks": len(correct[f"first {V}"]),
        "options": table(correct, cost, flips),
    }


def table(
    correct: dict[str, list[np.ndarray]], cost: dict[str, list[float]], flips: dict[str, list[float]]
) -> list[dict[str, Any]]:
    """One row per option: passes, accuracy, and the difference to all views in points with a paired 95 % interval.

    `flips` is the share of images that it answers in another way than all views do.
    """
    whole = correct[f"first {V}"]
    rows = []
    for name, found in correct.items():
        clusters = [np.arange(len(task)) for task in found]
        difference = mean_interval([100 * (a - b) for a, b in zip(found, whole, strict=True)], clusters)
        accuracy = 100 * float(np.mean([task.mean() for task in found]))
        passes, flipped = float(np.mean(cost[name])), float(np.mean(flips[name]))
        rows.append({"option": name, "passes": passes, "accuracy": accuracy, "to_all_views": difference, "flips": flipped})
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--split", choices=("tuning", "reporting"), default="tuning")
    parser.add_argument("--limit", type=int, default=100, help="images per task")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    result = measure(given.split, given.limit, given.seed)
    if given.json:
        write_json(given.json, result)
    for row in result["options"]:
        gain, low, high = row["to_all_views"]
        passes, accuracy, flips = row["passes"], row["accuracy"], 100 * row["flips"]
        print(f"{passes:5.1f}  {accuracy:5.1f}  {gain:+5.1f} ({low:+.1f} to {high:+.1f})  {flips:4.1f} %  {row['option']}")


if __name__ == "__main__":
    main()
