"""Trains nano-clip from scratch on drawn scenes: one command, seeded, about 35 minutes on 2 CPU cores.

    python recipes/nano_clip/train.py --out build/nano-clip

Writes an ordinary open_clip folder (configuration, half-precision safetensors, byte-pair vocabulary), a training log,
and `hard_ids.json`: the numbers of the scenes that an early checkpoint of this run got wrong, which become the
hard-filtered task (the way ImageNet-A was filtered with a weaker network).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from pathlib import Path

# Large tensors otherwise go back to the system after every step and are paged in again: a tenth of the time.
if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
    os.environ |= {"MALLOC_TRIM_THRESHOLD_": str(1 << 33), "MALLOC_MMAP_THRESHOLD_": str(1 << 32)}
    os.execv(sys.executable, [sys.executable, *sys.argv])

import numpy as np
import open_clip
import torch
from captions import TEMPLATES, caption
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).parents[1]))
from byte_pairs import write_vocabulary

from grpo_tta.data import nano, scenes

IMAGE, CONTEXT, MERGES = 48, 24, 600
WATCHED = ("source", "colours", "textures", "counts", "letters", "gaussian-noise", "sketch")  # tuning split only
CONFIG = {
    "model_cfg": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": IMAGE, "layers": 6, "width": 128, "head_width": 32, "patch_size": 8},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": 512 + MERGES + 2,
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


def training_scene(rng: np.random.Generator) -> scenes.Scene:
    kind = rng.random()
    if kind < 0.28:
        characters = scenes.DIGITS if rng.random() < 0.45 else scenes.LETTERS
        return scenes.random_scene(rng, what=characters[rng.integers(len(characters))])
    if kind < 0.43:
        return scenes.random_scene(rng, count=int(rng.integers(2, 7)))
    return scenes.random_scene(rng)


def make_example(job: tuple[int, int]) -> tuple[np.ndarray, list[str]]:
    """One training image and eight captions of it."""
    seed, index = job
    rng = np.random.default_rng([seed, index, 0x7241])
    scene = training_scene(rng)
    return scenes.draw(rng, scene), [caption(rng, scene) for _ in range(8)]


def random_crops(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random resized crops (40 to 100 % of the area), normalised: uint8 [B, 3, 64, 64] -> float [B, 3, 48, 48]."""
    B = len(images)
    area = torch.empty(B).uniform_(0.4, 1.0, generator=generator)
    ratio = torch.empty(B).uniform_(-0.28, 0.28, generator=generator).exp().sqrt()
    w, h = (area.sqrt() * ratio).clamp(max=1.0), (area.sqrt() / ratio).clamp(max=1.0)
    cx = (torch.rand(B, generator=generator) * 2 - 1) * (1 - w)
    cy = (torch.rand(B, generator=generator) * 2 - 1) * (1 - h)
    zero = torch.zeros(B)
    theta = torch.stack([torch.stack([w, zero, cx], 1), torch.stack([zero, h, cy], 1)], 1)
    grid = F.affine_grid(theta, [B, 3, IMAGE, IMAGE], align_corners=False)
    return F.grid_sample(images.float() / 127.5 - 1.0, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def contrastive_loss(
    image_features: torch.Tensor, text_features: torch.Tensor, caption_ids: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """CLIP's loss, with equal captions counted as positives of each other (supervised contrastive form)."""
    logits = scale * image_features @ text_features.T
    same = (caption_ids[:, None] == caption_ids[None, :]).float()
    target = same / same.sum(1, keepdim=True)
    per_image = -(target * logits.log_softmax(1)).sum(1).mean()
    per_text = -(target * logits.log_softmax(0)).sum(0).mean()
    return (per_image + per_text) / 2


@torch.no_grad()
def hits(
    model: open_clip.CLIP, tokenizer: open_clip.SimpleTokenizer, task: str, images: list[np.ndarray], labels: list[int]
) -> list[bool]:
    """Which images the model gets right by zero-shot classification among a task's classes."""
    spec = nano.TASKS[task]
    text = model.encode_text(tokenizer([spec.template.format(c) for c in spec.classes]), normalize=True)
    pixels = torch.stack([torch.from_numpy(image.copy()).permute(2, 0, 1) for image in images]).float() / 127.5 - 1
    pixels = F.interpolate(pixels, (IMAGE, IMAGE), mode="bicubic", antialias=True, align_corners=False)
    features = torch.cat([model.encode_image(chunk, normalize=True) for chunk in pixels.split(256)])
    return ((features @ text.T).argmax(1) == torch.tensor(labels)).tolist()


def save(model: open_clip.CLIP, folder: Path) -> None:
    half = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(half, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--steps", type=int, default=6_400)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    log = (args.out / "training_log.jsonl").open("w")

    with multiprocessing.Pool() as pool:
        examples = pool.map(make_example, [(args.seed, i) for i in range(args.images)], chunksize=500)
    images = torch.from_numpy(np.stack([image for image, _ in examples])).permute(0, 3, 1, 2)
    texts = Counter(text for _, captions in examples for text in captions)
    merges = write_vocabulary(args.out / "bpe.txt.gz", texts, MERGES, "nano-clip")
    CONFIG["model_cfg"]["text_cfg"]["vocab_size"] = 512 + merges + 2  # type: ignore[index]
    tokenizer = open_clip.SimpleTokenizer(str(args.out / "bpe.txt.gz"), context_length=CONTEXT)
    unique = {text: i for i, text in enumerate(sorted(texts))}
    tokens = tokenizer(list(unique))
    assert int((tokens[:, -1] != 0).sum()) == 0, "a caption is longer than the context"
    caption_ids = torch.tensor([[unique[text] for text in captions] for _, captions in examples])
    print(f"{len(images)} images, {len(unique)} captions, {time.monotonic() - started:.0f} s", flush=True)

    torch.manual_seed(args.seed)
    model = open_clip.model.CLIP(**CONFIG["model_cfg"])  # type: ignore[arg-type]
    average = open_clip.model.CLIP(**CONFIG["model_cfg"])  # type: ignore[arg-type]
    average.load_state_dict(model.state_dict())
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        lr=args.learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.learning_rate, total_steps=args.steps, pct_start=0.06, cycle_momentum=False
    )
    generator = torch.Generator().manual_seed(args.seed)
    watched = {}
    for task in WATCHED:
        drawn = list(nano.items(task, "tuning"))
        watched[task] = ([item.image for item in drawn], [item.label for item in drawn])
    running = 0.0
    for step in range(1, args.steps + 1):
        rows = torch.randint(len(images), (args.batch,), generator=generator)
        which = caption_ids[rows, torch.randint(8, (args.batch,), generator=generator)]
        distinct, inverse = which.unique(return_inverse=True)
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            image_features = model.encode_image(random_crops(images[rows], generator), normalize=True)
            text_features = model.encode_text(tokens[distinct], normalize=True)[inverse]
        scale = model.logit_scale.exp()
        loss = contrastive_loss(image_features.float(), text_features.float(), which, scale)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=float(np.log(100)))
            decay = min(0.999, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        running += loss.item()
        if step == 2 * args.steps // 5:  # the early checkpoint that filters the hard task
            average.eval()
            wrong = nano.filter_hard(lambda images, labels: hits(average, tokenizer, "hard", images, labels))
            (args.out / "hard_ids.json").write_text(json.dumps(wrong) + "\n")
        if step % 200 == 0:
            row = {"step": step, "loss": running / 200, "seconds": round(time.monotonic() - started, 1)}
            running = 0.0
            if step % 1000 == 0:
                average.eval()
                for task in WATCHED:
                    row[task] = round(float(np.mean(hits(average, tokenizer, task, *watched[task]))), 4)
                save(average, args.out)
            row["logit_scale"] = round(scale.item(), 2)
            print(row, flush=True)
            log.write(json.dumps(row) + "\n")
            log.flush()
    save(average.eval(), args.out)
    print(f"done in {time.monotonic() - started:.0f} s; templates: {len(TEMPLATES)}")


if __name__ == "__main__":
    main()
