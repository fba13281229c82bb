"""Draws the figure of docs/method.md: one image's episode on nano-clip. `python docs/make_figures.py [FOLDER]`"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from grpo_tta import GRPOTTA
from grpo_tta.data import nano
from grpo_tta.engine.encode import encode_images
from grpo_tta.images.read import image_key
from grpo_tta.report.demo_figure import AFTER, BEFORE, GRID, OTHER

TASK, NUMBER = "fog", 61
SHOWN = 6


def bars(
    ax: Axes, names: list[str], values: list[float], colour: str | list[str], title: str, digits: int = 0, named: bool = False
) -> None:
    """One bar per candidate; the names stand beside the first panel alone."""
    places = range(len(names), 0, -1)
    ax.barh(list(places), values, color=colour, height=0.62)
    span = max(map(abs, values)) or 1.0
    for y, value in zip(places, values, strict=True):
        side = "left" if value >= 0 else "right"
        ax.text(
            value + (0.04 if value >= 0 else -0.04) * span,
            y,
            f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}"),
            va="center",
            ha=side,
            fontsize=8,
        )
    ax.set_yticks(list(places), names if named else [""] * len(names), fontsize=8)
    ax.set_xlim((min(0.0, *values) - 0.45 * span) if min(values) < 0 else 0.0, max(0.0, *values) + 0.45 * span)
    ax.set_xticks([])
    ax.axvline(0, color=GRID, lw=1, zorder=0)
    ax.set_title(title, fontsize=9, loc="left")
    ax.tick_params(axis="y", length=0)
    for side in ("top", "right", "bottom", "left"):
        ax.spines[side].set_visible(False)


def method_figure(path: Path) -> None:
    """Views and content-free views above; ensemble prediction, rewards, advantages, prediction below."""
    spec = nano.TASKS[TASK]
    image = Image.fromarray(nano.item(TASK, "tuning", NUMBER).image)
    classifier = GRPOTTA("nano-clip", spec.classes, templates=spec.template)
    backbone, explanation = classifier.backbone, classifier.explain(image)
    batch = encode_images(classifier.policy, [image], [image_key(image)], classifier.settings.views, classifier.seed)

    def show(ax: Axes, pixels: torch.Tensor | np.ndarray, title: str) -> None:
        if isinstance(pixels, torch.Tensor):
            pixels = (pixels * backbone.std[:, None, None] + backbone.mean[:, None, None]).clamp(0, 1).permute(1, 2, 0).numpy()
        ax.imshow(pixels)
        ax.set_axis_off()
        ax.set_title(title, fontsize=9, loc="left")

    figure = Figure(figsize=(12, 4.4), dpi=130, layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[0.78, 1.15])
    row = above.subplots(1, SHOWN + 4)
    show(row[0], np.asarray(image), "image")
    for number in range(SHOWN):
        show(
            row[1 + number],
            batch.views[0, number],
            f"step 1: views ({SHOWN} of {classifier.settings.views.views})" if number == 0 else "",
        )
    for number in range(3):
        show(row[1 + SHOWN + number], batch.content_free[0, number], "step 1: content-free views" if number == 0 else "")

    group = [candidate.label for candidate in explanation.views[0].candidates]
    before, after = explanation.prediction.probabilities_before, explanation.prediction.probabilities
    advantages = [float(np.mean([view.candidates[k].advantage for view in explanation.views])) for k in range(len(group))]
    ensemble = [
        100 * float(np.mean([view.candidates[k].probabilities[0] for view in explanation.views])) for k in range(len(group))
    ]
    rewards = [candidate.reward for candidate in explanation.views[0].candidates]
    signs = ["#0f766e" if advantage >= 0 else "#be123c" for advantage in advantages]
    panels = below.subplots(1, 5)
    bars(panels[0], group, ensemble, OTHER, "steps 2, 3: mean of the views, %", named=True)
    bars(panels[1], group, rewards, OTHER, "step 4: rewards, nats", 1)
    bars(panels[2], group, advantages, signs, "step 5: advantages", 2)
    bars(panels[3], group, [100 * before[label] for label in group], BEFORE, "zero-shot answer, %")
    bars(panels[4], group, [100 * after[label] for label in group], AFTER, "steps 6, 7: adapted answer, %")
    figure.savefig(path)


if __name__ == "__main__":
    method_figure(Path(sys.argv[1] if len(sys.argv) > 1 else "docs") / "method.png")
