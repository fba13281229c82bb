"""A method of your own beside others, on the same views: `python examples/own_method.py [OUT]`."""

import sys
from dataclasses import dataclass
from pathlib import Path

from grpo_tta.backbones.base import load_backbone
from grpo_tta.baselines.registry import choose_methods
from grpo_tta.bench.records import read_records
from grpo_tta.bench.runner import RunSettings, run
from grpo_tta.data.tasks import nano_tasks
from grpo_tta.engine.interface import Adaptation, Cost, Method, no_cached_blocks


@dataclass(frozen=True)
class MedianSettings:
    views: int = 16


def median_method(settings: MedianSettings) -> Method:
    def run_batch(policy, batch, state):
        views = batch.encoded.log_probs[:, : batch.encoded.views]  # [B, V, C]
        median = views.exp().median(dim=1).values  # [B, C]
        after = (median / median.sum(-1, keepdim=True)).log()
        return Adaptation(before=views[:, 0], after=after, cost=Cost(float(settings.views))), state

    return Method("view-median", "episodic", "none", settings.views, 0, settings, no_cached_blocks, run_batch)


def main(out: Path) -> None:
    methods = [*choose_methods(["zero-shot", "view-mean"]), median_method(MedianSettings())]
    run(load_backbone("nano-clip"), nano_tasks(["fog"], "tuning", limit=8), methods, out, RunSettings())
    rows = read_records([out]).assign(right=lambda found: found.prediction == found.label)
    print(rows.groupby("method").agg(right=("right", "mean"), forwards=("forwards", "mean"), images=("right", "size")))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/own-method"))
