"""Trains photo-clip from scratch on the photographs beside the project: one command, seeded, on two CPU cores.

    python recipes/photo_clip/train.py --photos-root ../shared/data --out build/photo-clip

Writes an ordinary open_clip folder (configuration, half-precision safetensors, byte-pair vocabulary), a training log and
a checkpoint. The same command goes on from the checkpoint; `--piece-minutes` stops after a piece. A run in pieces gives
the weights of a run in one go.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

# Large tensors otherwise go back to the system after every step and are paged in again: a tenth of the time.
if __name__ == "__main__" and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
    os.environ |= {"MALLOC_TRIM_THRESHOLD_": str(1 << 33), "MALLOC_MMAP_THRESHOLD_": str(1 << 32)}
    os.execv(sys.executable, [sys.executable, *sys.argv])

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
import augment
import images
import texts
from byte_pairs import write_vocabulary

IMAGE, CONTEXT, MERGES = 64, 24, 1000
FULL_FROM = 0.7  # share of the run after which no patches are dropped any more (Li et al. 2023, FLIP)


@final
@dataclass(frozen=True)
class Part:
    """One set's share of every step: its photographs, how many of them, and the tokens of all its captions.

    Attributes:
        tokens: `[captions, CONTEXT]` of all classes one after another.
        first: where a class's captions begin in `tokens`, int64 `[C]`.
        counts: how many names a class has, int64 `[C]`.
        smallest: least area of a random crop.
    """

    photos: images.Training
    batch: int
    smallest: float
    tokens: torch.Tensor
    first: torch.Tensor
    counts: torch.Tensor


def configuration(vocabulary: int, width: int, layers: int) -> dict[str, Any]:
    return {
        "model_cfg": {
            "embed_dim": 128,
            "vision_cfg": {
                "image_size": IMAGE,
                "layers": layers,
                "width": width,
                "head_width": 32,
                "patch_size": 8,
                "patch_dropout": 0.5,
            },
            "text_cfg": {
                "context_length": CONTEXT,
                "vocab_size": vocabulary,
                "width": 128,
                "heads": 4,
                "layers": 2,
                "tokenizer_kwargs": {"bpe_path": "bpe.txt.gz"},
            },
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


def loss_of(
    image_features: torch.Tensor, text_features: torch.Tensor, labels: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """CLIP's loss between images and one caption of every class, equal classes being positives of each other.

    Args:
        image_features: `[B, D]`, unit length.
        text_features: `[C, D]`, unit length.
        labels: int64 `[B]`.
        scale: the logit scale, a scalar.
    """
    logits = scale * image_features @ text_features.T
    per_image = F.cross_entropy(logits, labels)
    # A caption's target is spread over its images and it counts as often as it has some: the mean over all images.
    per_text = -logits.log_softmax(0).gather(1, labels[:, None]).mean()
    return (per_image + per_text) / 2


def part_of(photos: images.Training, batch: int, smallest: float, tokenizer: open_clip.SimpleTokenizer) -> Part:
    every = [texts.captions(names) for names in photos.names]
    tokens = tokenizer([text for group in every for text in group])
    if bool((tokens[:, -1] != 0).any()):
        raise SystemExit("A caption is longer than the context.")
    sizes = torch.tensor([len(group) for group in every])
    counts = torch.tensor([len(names) for names in photos.names])
    return Part(photos, batch, smallest, tokens, sizes.cumsum(0) - sizes, counts)


def step_loss(model: open_clip.CLIP, parts: tuple[Part, ...], generator: torch.Generator) -> torch.Tensor:
    """The loss of one step. Each set is contrasted with its own captions alone, since the sets share classes."""
    pixels, labels, tokens = [], [], []
    for part in parts:
        rows = torch.randint(len(part.photos.images), (part.batch,), generator=generator)
        pixels.append(augment.crops(part.photos.images[rows], IMAGE, part.smallest, generator))
        labels.append(part.photos.labels[rows])
        tokens.append(part.tokens[part.first + texts.draw(part.counts, generator)])
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        image_features = model.encode_image(torch.cat(pixels), normalize=True).float().split([p.batch for p in parts])
        text_features = model.encode_text(torch.cat(tokens), normalize=True).float().split([len(p.counts) for p in parts])
    scale = model.logit_scale.exp()
    losses = [
        part.batch * loss_of(i, t, of_part, scale)
        for part, i, t, of_part in zip(parts, image_features, text_features, labels, strict=True)
    ]
    return torch.stack(losses).sum() / sum(part.batch for part in parts)


def optimizers_of(model: open_clip.CLIP, learning_rate: float) -> tuple[torch.optim.Optimizer, ...]:
    """Muon (Jordan et al. 2024) for the matrices of the blocks, AdamW for all else, with steps of like size.

    Few steps are all there is; orthogonalised ones get further than AdamW's alone.
    """
    inner = {n: p for n, p in model.named_parameters() if "resblocks" in n and p.ndim == 2}
    outer = [p for n, p in model.named_parameters() if n not in inner]
    return (
        torch.optim.Muon(inner.items(), lr=learning_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [
                {"params": [p for p in outer if p.ndim >= 2], "weight_decay": 0.05},
                {"params": [p for p in outer if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=learning_rate / 4,
            betas=(0.9, 0.98),
            fused=True,
        ),
    )


def rise_and_fall(done: float) -> float:
    """The learning rate's factor after a share of the run: up in the first fiftieth, then down to zero in a line."""
    return min(done / 0.02, (1 - done) / 0.98)


@torch.no_grad()
def accuracy(model: open_clip.CLIP, part: Part) -> float:
    """Zero-shot accuracy on the watched photographs, each class by its usual name in the first template."""
    text = model.encode_text(part.tokens[part.first], normalize=True)
    pixels = part.photos.watched.float() / 127.5 - 1
    if pixels.shape[-1] != IMAGE:
        pixels = F.interpolate(pixels, (IMAGE, IMAGE), mode="bicubic", antialias=True, align_corners=False)
    features = torch.cat([model.encode_image(chunk, normalize=True) for chunk in pixels.split(250)])
    return ((features @ text.T).argmax(1) == part.photos.watched_labels).float().mean().item()


def export(model: open_clip.CLIP, config: dict[str, Any], folder: Path) -> None:
    """Writes the model as an ordinary open_clip folder, in half precision; patch dropout is of the training alone."""
    half = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(half, folder / "open_clip_model.safetensors")
    vision = {k: v for k, v in config["model_cfg"]["vision_cfg"].items() if k != "patch_dropout"}
    kept = config | {"model_cfg": config["model_cfg"] | {"vision_cfg": vision}}
    (folder / "open_clip_config.json").write_text(json.dumps(kept, indent=2) + "\n")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--batch", type=int, nargs=2, default=(96, 32), help="Tiny-ImageNet and CIFAR-10 photographs a step")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--piece-minutes", type=float, default=None, help="stop, resumable, after so long")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    sets = (images.read(args.photos_root, "tiny"), images.read(args.photos_root, "cifar"))
    every = Counter(text for photos in sets for names in photos.names for text in texts.captions(names))
    merges = write_vocabulary(args.out / "bpe.txt.gz", every, MERGES, "photo-clip")
    tokenizer = open_clip.SimpleTokenizer(str(args.out / "bpe.txt.gz"), context_length=CONTEXT)
    parts = tuple(part_of(p, b, s, tokenizer) for p, b, s in zip(sets, args.batch, (0.35, 0.5), strict=True))
    config = configuration(512 + merges + 2, args.width, args.layers)

    torch.manual_seed(args.seed)
    model, average = (open_clip.model.CLIP(**config["model_cfg"]) for _ in range(2))
    average.load_state_dict(model.state_dict())
    average.eval()
    optimizers = optimizers_of(model, args.learning_rate)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: rise_and_fall(step / args.steps)) for o in optimizers]
    generator = torch.Generator().manual_seed(args.seed)
    first, running, before = 1, 0.0, 0.0
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        for name, thing in {"model": model, "average": average}.items():
            thing.load_state_dict(state[name])
        for name, things in {"optimizers": optimizers, "schedules": schedules}.items():
            for thing, kept in zip(things, state[name], strict=True):
                thing.load_state_dict(kept)
        generator.set_state(state["generator"])
        torch.set_rng_state(state["torch"])  # which patches are dropped
        first, running, before = state["step"] + 1, state["running"], state["seconds"]

    def keep(step: int) -> None:
        state = {
            "model": model.state_dict(),
            "average": average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "schedules": [schedule.state_dict() for schedule in schedules],
            "generator": generator.get_state(),
            "torch": torch.get_rng_state(),
            "step": step,
            "running": running,
            "seconds": before + time.monotonic() - started,
        }
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)

    size = sum(p.numel() for p in model.parameters())
    print(f"{size / 1e6:.2f} million parameters, {len(every)} captions, {merges} merges, from step {first}", flush=True)
    log_file = args.out / "training_log.jsonl"
    kept = [line for line in log_file.read_text().splitlines() if json.loads(line)["step"] < first] if first > 1 else []
    log_file.write_text("".join(f"{line}\n" for line in kept))  # a run killed between log and checkpoint logs a step again
    with log_file.open("a") as log:
        for step in range(first, args.steps + 1):
            model.visual.patch_dropout.prob = 0.5 if step <= FULL_FROM * args.steps else 0.0
            loss = step_loss(model, parts, generator)
            model.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for moved in (*optimizers, *schedules):
                moved.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=float(np.log(100)))
                decay = min(0.999, (1 + step) / (10 + step))
                torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
            running += loss.item()
            if step % 200 == 0:
                row: dict[str, float] = {"step": step, "loss": round(running / 200, 4)}
                running = 0.0
                if step % 1000 == 0:
                    row |= {
                        name: round(accuracy(average, part), 4) for name, part in zip(("tiny", "cifar"), parts, strict=True)
                    }
                row |= {"logit_scale": round(model.logit_scale.exp().item(), 2)}
                row |= {"seconds": round(before + time.monotonic() - started, 1)}
                print(row, flush=True)
                log.write(json.dumps(row) + "\n")
                log.flush()
                keep(step)
            if args.piece_minutes is not None and time.monotonic() - started > 60 * args.piece_minutes and step < args.steps:
                keep(step)
                print(f"stopped after step {step} of {args.steps}; the same command goes on from there", flush=True)
                return
    keep(args.steps)
    export(average, config, args.out)
    print(f"done in {before + time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
