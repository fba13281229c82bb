"""Draws the figures of README and docs from the present version.

    python docs/make_figures.py                                                     # docs/demo.png, docs/method.png
    python docs/make_figures.py --out build/figures --limit 2 --tasks source,fog    # a small sample, elsewhere

The first command takes two minutes on two cores. `demo.png` is what `grpo-tta demo --limit 60` draws, without the methods
that are not in it. The tests run the second one.
"""

from __future__ import annotations

import argparse
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from PIL import Image

from grpo_tta import GRPOTTA
from grpo_tta.backbones.base import load_backbone
from grpo_tta.baselines.registry import choose_methods
from grpo_tta.bench.records import read_records
from grpo_tta.bench.runner import RunSettings, run
from grpo_tta.data import nano
from grpo_tta.data.tasks import nano_tasks
from grpo_tta.engine.encode import encode_images
from grpo_tta.images.read import image_key
from grpo_tta.method.grpo import reference_pass
from grpo_tta.report.demo_figure import AFTER, BEFORE, GRID, OTHER, demo_plot
from grpo_tta.report.grids import number
from grpo_tta.report.summary import summarize

MODEL, SEED, LIMIT = "nano-clip", 0, 60
TASK, NUMBER = "fog", 61
SHOWN, SHUFFLED = 6, 3


def bars(ax: Axes, values: list[float], colour: str, title: str, digits: int = 0, sign: bool = False) -> None:
    """One bar per candidate, the first one above."""
    places = range(len(values), 0, -1)
    ax.barh(list(places), values, color=colour, height=0.62)
    span = max(map(abs, values)) or 1.0
    for y, value in zip(places, values, strict=True):
        beside = 0.04 * span if value >= 0 else -0.04 * span
        ax.text(value + beside, y, number(value, digits, sign), va="center", ha="left" if value >= 0 else "right", fontsize=8)
    ax.set_yticks([])
    ax.set_xlim(min(0.0, *values) - (0.45 * span if min(values) < 0 else 0), max(0.0, *values) + 0.45 * span)
    ax.set_xticks([])
    ax.axvline(0, color=GRID, lw=1, zorder=0)
    ax.set_title(title, fontsize=9, loc="left")
    ax.spines[:].set_visible(False)


def show(panel: SubFigure, views: list[np.ndarray], title: str) -> None:
    """Views side by side."""
    panel.suptitle(title, fontsize=9, x=0.01, ha="left")
    for ax, pixels in zip(panel.subplots(1, len(views)), views, strict=True):
        ax.imshow(pixels)
        ax.set_axis_off()


def method_plot() -> Figure:
    """One image's episode: views above; ensemble prediction, rewards, advantages and both answers below."""
    spec, item = nano.TASKS[TASK], nano.item(TASK, "tuning", NUMBER)
    image = Image.fromarray(item.image)
    classifier = GRPOTTA(MODEL, spec.classes, templates=spec.template, seed=SEED)
    backbone, settings, explanation = classifier.backbone, classifier.settings, classifier.explain(image)
    batch = encode_images(classifier.policy, [image], [image_key(image)], settings.views, SEED)
    ensemble = reference_pass(classifier.policy, batch.encoded, settings).ensemble[0].exp()
    shares = dict(zip(spec.classes, ensemble.tolist(), strict=True))

    def shown(views: torch.Tensor) -> list[np.ndarray]:
        pixels = (views[0] * backbone.std[:, None, None] + backbone.mean[:, None, None]).clamp(0, 1)
        return list(pixels.permute(0, 2, 3, 1).numpy())

    figure = Figure(figsize=(12, 4.6), dpi=130, layout="constrained")
    truth = spec.classes[item.label]
    about = f"{MODEL}, one image of the task {TASK} (n = 1, seed {SEED}), truth: {truth}"
    figure.suptitle(f"One episode: {about}", fontsize=11, fontweight="bold")
    above, below = figure.subfigures(2, 1, height_ratios=[0.78, 1.15])
    left, right = above.subfigures(1, 2, width_ratios=[SHOWN, SHUFFLED])
    counted = f"1. {SHOWN} of {settings.views.views} views; the first is view 0, the image as the model reads it"
    show(left, shown(batch.views[:, :SHOWN]), counted)
    counted = f"1. {SHUFFLED} of {settings.views.content_free} content-free views"
    show(right, shown(batch.content_free[:, :SHUFFLED]), counted)

    group = explanation.views[0].candidates
    names = [candidate.label for candidate in group]
    advantages = [float(np.mean([view.candidates[k].advantage for view in explanation.views])) for k in range(len(group))]
    before, after = explanation.prediction.probabilities_before, explanation.prediction.probabilities
    panels = below.subplots(1, 5)
    bars(panels[0], [100 * shares[name] for name in names], OTHER, f"2, 3. ensemble prediction, top {len(group)}, %")
    bars(panels[1], [candidate.reward for candidate in group], OTHER, "4. reward, nats", 1)
    bars(panels[2], advantages, OTHER, "5. advantage, mean over views", 2, sign=True)
    bars(panels[3], [100 * before[name] for name in names], BEFORE, "zero-shot answer, %")
    bars(panels[4], [100 * after[name] for name in names], AFTER, "6, 7. adapted answer, %")
    labels = [f"{name} \N{CHECK MARK}" if name == truth else name for name in names]
    panels[0].set_yticks(range(len(names), 0, -1), labels, fontsize=8)
    panels[0].tick_params(axis="y", length=0)
    return figure


def demo_figure(limit: int, names: list[str] | None) -> Figure:
    """Zero-shot against `grpo-tta` on the tasks of the nano suite, all but the streams where none is named."""
    tasks = nano_tasks(names, "reporting", limit)
    with tempfile.TemporaryDirectory() as folder:
        methods = choose_methods(["zero-shot", "grpo-tta"])
        run(load_backbone(MODEL), tasks, methods, Path(folder), RunSettings(seed=SEED), timed=False)
        rows = read_records([Path(folder)])
    return demo_plot(rows, summarize(rows, {}), tasks, MODEL)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--limit", type=int, default=LIMIT, help="images per task of demo.png")
    parser.add_argument("--tasks", default="", help="of demo.png, separated by commas")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    figures = {"demo": demo_figure(options.limit, options.tasks.split(",") if options.tasks else None), "method": method_plot()}
    for name, figure in figures.items():
        figure.savefig(options.out / f"{name}.png", metadata={"Software": f"grpo-tta {version('grpo-tta')}"})


if __name__ == "__main__":
    main()
