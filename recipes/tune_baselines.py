"""Tunes the baselines on the tuning split of the nano suite: one grid per method, with the default's own number of views.

    python recipes/tune_baselines.py --out tuned.json [--methods tpt,ttl] [--images 12] [--stream-images 96]

Prints the mean accuracy over the shifted tasks for every setting. The first setting of a grid is that of the official code, at
the default's number of views. The same is written as JSON after every task, and the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from grpo_tta.backbones.base import load_backbone
from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.baselines.batclip import BATCLIPSettings, batclip_method
from grpo_tta.baselines.boostadapter import BoostAdapterSettings, boostadapter_method
from grpo_tta.baselines.clipartt import CLIPArTTSettings, clipartt_method
from grpo_tta.baselines.cliptta import CLIPTTASettings, cliptta_method
from grpo_tta.baselines.ctpt import CTPTSettings, ctpt_method
from grpo_tta.baselines.dota import DOTASettings, dota_method
from grpo_tta.baselines.encoder_entropy import EncoderEntropySettings, encoder_entropy_method
from grpo_tta.baselines.fga import FGASettings, fga_method
from grpo_tta.baselines.lora_ttt import LoRATTTSettings, lora_ttt_method
from grpo_tta.baselines.mint import MINTSettings, mint_method
from grpo_tta.baselines.mta import MTASettings, mta_method
from grpo_tta.baselines.rlcf import RLCFSettings, rlcf_method
from grpo_tta.baselines.sar import SARSettings, sar_method
from grpo_tta.baselines.sts import STSSettings, sts_method
from grpo_tta.baselines.tda import TDASettings, tda_method
from grpo_tta.baselines.tent import TentSettings, tent_method
from grpo_tta.baselines.tpt import TPTSettings, tpt_method
from grpo_tta.baselines.ttl import TTLSettings, ttl_method
from grpo_tta.baselines.vte import VTESettings, vte_method
from grpo_tta.baselines.watt import WATTSettings, watt_method
from grpo_tta.baselines.zero import ZeroSettings, zero_method
from grpo_tta.data.tasks import SHIFTED_MEAN, nano_tasks
from grpo_tta.engine.encode import encode_for
from grpo_tta.engine.interface import Method, concatenate
from grpo_tta.engine.policy import Policy
from grpo_tta.images.read import to_rgb
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.settings import DEFAULT

V = DEFAULT.views.views


def grids() -> dict[str, list[Method]]:
    """Settings to try, the official one first."""
    norm, whole = (1e-5, 1e-3, 3e-3, 1e-2, 3e-2), (1e-5, 1e-4, 3e-4)
    few = (6, V)
    return {
        "vte": [vte_method(VTESettings(V, m)) for m in (6, 3, 12, 18, V)],
        "zero": [zero_method(ZeroSettings(V, kept)) for kept in (0.3, 0.1, 0.5, 0.75, 1.0)],
        "mta": [
            mta_method(MTASettings(V, e, a, n)) for e, a, n in
            ((0.2, 4, 0.3), (0.2, 1, 0.3), (1, 4, 0.3), (1, 1, 0.3), (0.2, 4, 1), (1, 4, 1), (0.5, 1, 1))
        ],
        "tpt": [tpt_method(TPTSettings(V, m, learning_rate=lr)) for m in few for lr in (5e-3, 1e-3, 2e-2)],
        "encoder-entropy": [
            encoder_entropy_method(EncoderEntropySettings(V, m, learning_rate=lr)) for m in few for lr in norm
        ],
        "encoder-entropy-full": [
            encoder_entropy_method(EncoderEntropySettings(V, m, "whole", learning_rate=lr)) for m in few for lr in whole
        ],
        "rlcf": [rlcf_method(RLCFSettings(V, m, learning_rate=lr)) for m in few for lr in norm],
        "rlcf-full": [rlcf_method(RLCFSettings(V, m, tuned="whole", learning_rate=lr)) for m in few for lr in whole],
        "ttl": [ttl_method(TTLSettings(V, learning_rate=lr, steps=s)) for s in (1, 2) for lr in (5e-3, 1e-3, 2e-2)],
        "tent": [tent_method(TentSettings(n, lr)) for n in (64, 16) for lr in (1e-3, 3e-4, 3e-3)],
        "clipartt": [
            clipartt_method(CLIPArTTSettings(candidates=k, steps=s, learning_rate=lr)) for k, s, lr in
            ((3, 10, 1e-3), (3, 10, 3e-4), (3, 3, 1e-3))
        ],
        "watt": [
            watt_method(WATTSettings(rounds=r, learning_rate=lr)) for r, lr in ((5, 1e-3), (2, 1e-3), (1, 1e-3))
        ],
        "tda": [tda_method(TDASettings(positive_alpha=a, positive_beta=b)) for a, b in
                ((2.0, 5.0), (1.0, 5.0), (4.0, 5.0), (8.0, 5.0), (2.0, 10.0), (4.0, 10.0), (8.0, 10.0))],
        "boostadapter": [
            boostadapter_method(BoostAdapterSettings(V, m, TDASettings(positive_alpha=a))) for m, a in
            ((6, 2.0), (6, 1.0), (6, 4.0), (12, 2.0), (12, 4.0), (V - 1, 2.0), (V - 1, 4.0))
        ],
        "sts": [sts_method(STSSettings(V, m, learning_rate=lr)) for m in (6, 12, 18, V) for lr in (5e-3, 2e-2, 1e-1)],
        "fga-test-stage": [
            fga_method(FGASettings(V, m, radius=r)) for m in (6, 12, 18) for r in (0.5, 0.2, 1.0)
        ],
        "ctpt": [
            ctpt_method(CTPTSettings(TPTSettings(V, m, learning_rate=lr), d)) for m, lr, d in
            ((6, 5e-3, 20), (6, 5e-3, 50), (6, 5e-3, 5), (V, 5e-3, 20), (V, 2e-2, 20), (V, 2e-2, 5))
        ],
        "lora-ttt": [
            lora_ttt_method(LoRATTTSettings(V, m, reconstruction=w, learning_rate=lr)) for m in (6, V)
            for lr, w in ((1e-3, 1.0), (5e-3, 1.0), (2e-2, 1.0), (5e-3, 0.1), (2e-2, 0.1))
        ],
        "sar": [
            sar_method(SARSettings(n, margin=e, learning_rate=lr)) for n, e, lr in
            ((64, 0.4, 1e-3), (16, 0.4, 1e-3), (16, 0.4, 1e-2), (16, 0.8, 1e-2), (16, 0.4, 1e-1), (16, 0.8, 1e-1))
        ],
        "batclip": [
            batclip_method(BATCLIPSettings(n, learning_rate=lr)) for n, lr in
            ((64, 5e-4), (16, 5e-4), (16, 1e-4), (16, 1e-3), (32, 1e-3), (16, 3e-3))
        ],
        "batclip-visual": [
            batclip_method(BATCLIPSettings(n, False, lr)) for n, lr in
            ((64, 5e-4), (16, 5e-4), (16, 1e-4), (16, 1e-3), (32, 1e-3), (16, 3e-3))
        ],
        "mint": [
            mint_method(MINTSettings(n, lr, prior)) for n, lr, prior in
            ((20, 7e-3, 1e4), (20, 1.5e-2, 1e4), (20, 3e-2, 1e4), (20, 3e-3, 1e4), (8, 1.5e-2, 1e4), (20, 7e-3, 1e3),
             (20, 1.5e-2, 1e3))
        ],
        "cliptta": [
            cliptta_method(CLIPTTASettings(n, steps, lr)) for n, steps, lr in
            ((128, 10, 1e-4), (32, 10, 1e-4), (32, 3, 1e-3), (16, 3, 3e-4), (32, 10, 1e-3), (16, 1, 1e-3))
        ],
        "dota": [
            dota_method(DOTASettings(v, m, growth=g, most=eta)) for v, m, g, eta in
            ((1, 1, 5e-3, 0.2), (1, 1, 0.02, 0.3), (1, 1, 0.02, 0.5), (1, 1, 0.05, 3.0), (V, 6, 0.02, 0.3), (V, 18, 0.02, 0.3),
             (V, 18, 0.05, 3.0))
        ],
    }  # fmt: skip


def summarise(found: dict[str, dict[str, list[float]]], chosen: dict[str, list[Method]]) -> dict[str, list[dict[str, Any]]]:
    """The settings of each method with their mean accuracy in % over the tasks that are done."""
    return {
        key: [
            {"settings": asdict(method.settings), "accuracy": 100 * sum(task[key][n] for task in found.values()) / len(found)}
            for n, method in enumerate(grid)
        ]
        for key, grid in chosen.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="all")
    parser.add_argument("--images", type=int, default=12, help="images per task, for episodic methods")
    parser.add_argument("--stream-images", type=int, default=96, help="images per task, for methods that carry state")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    every = grids()
    chosen = every if options.methods == "all" else {name: every[name] for name in options.methods.split(",")}
    backbone = load_backbone("nano-clip")
    tasks = [task for task in nano_tasks(None, "tuning") if task.kind in SHIFTED_MEAN]
    # task -> method -> accuracy of each setting; what an unfinished run has written is not done again
    found: dict[str, dict[str, list[float]]] = json.loads(options.out.read_text())["tasks"] if options.out.is_file() else {}
    started = time.time()
    for task in tasks:
        if set(found.get(task.name, {})) >= set(chosen):
            continue
        accuracy = found.setdefault(task.name, {})
        policy = Policy(backbone, make_prompts(backbone, task.classes, (task.template,), task.ensemble))
        for episodic, count in ((True, options.images), (False, options.stream_images)):
            wanted = [(key, m) for key, grid in chosen.items() for m in grid if (m.protocol == "episodic") == episodic]
            if not wanted:
                continue
            methods = [method for _, method in wanted]
            batches, labels = [], []
            for first in range(0, count, 16):
                numbers = range(first, min(first + 16, count))
                pairs = [task.load(number) for number in numbers]
                ids = tuple(task.image_ids[number] for number in numbers)
                images = [to_rgb(image) for image, _ in pairs]
                batches.append(encode_for(methods, policy, images, ids, ViewSettings(), 0))
                labels += [label for _, label in pairs]
            whole = concatenate(batches)
            for key, grid in chosen.items():
                accuracy.setdefault(key, [0.0] * len(grid))
                for number, method in enumerate(grid):
                    if (method.protocol == "episodic") == episodic:
                        after = method(policy, whole, {})[0].after
                        right = (after.argmax(-1).cpu() == torch.tensor(labels)).float().mean()
                        accuracy[key][number] = float(right)
        options.out.write_text(json.dumps({"tasks": found, "methods": summarise(found, chosen)}, indent=1) + "\n")
        print(f"{task.name}: {time.time() - started:.0f} s", flush=True)
    for key, rows in summarise(found, chosen).items():
        print(key)
        for row in rows:
            print(f"  {row['accuracy']:5.1f}  {row['settings']}")


if __name__ == "__main__":
    main()
