"""What the page shows of one image: answer, views, group and steps, ready to be drawn. No Gradio, no HTML."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from PIL import Image

from grpo_tta.backbones.base import Backbone
from grpo_tta.classifier import GRPOTTA, Explanation
from grpo_tta.engine.encode import prepare_images
from grpo_tta.errors import UserError
from grpo_tta.images.read import DecodedImage, image_key
from grpo_tta.method.objective import Target
from grpo_tta.method.prediction import Ensemble
from grpo_tta.report.embed import bar_widths, png_uri

SHOWN_LABELS = 8
SHOWN_VIEWS = 12
"""Views that stand open; the others are a click away."""


@final
@dataclass(frozen=True)
class Bar:
    """One label, in percent before and after."""

    label: str
    before: float
    after: float


@final
@dataclass(frozen=True)
class View:
    """One selected view as an image, and what the frozen model sees in it before the first step."""

    number: int
    image: str
    label: str
    percent: float


@final
@dataclass(frozen=True)
class Row:
    """One candidate.

    Attributes:
        left, width: of the advantage's bar, in percent of its field. Zero is in the middle.
        percents: before each step, pi_theta of the label in percent: the mean over the views of the group.
        answer: the answer's probability of the label, in percent.
    """

    label: str
    reward: float
    advantage: float
    left: float
    width: float
    percents: tuple[float, ...]
    answer: float


@final
@dataclass(frozen=True)
class Group:
    """The candidates of one view, or of all views where they share a group."""

    title: str
    rows: tuple[Row, ...]

    @property
    def best_goes_down(self) -> bool:
        """Whether the candidate with the highest reward has a negative advantage."""
        return max(self.rows, key=lambda row: row.reward).advantage < 0


@final
@dataclass(frozen=True)
class Episode:
    """One image's adaptation, top to bottom.

    Attributes:
        before, after: the answers; percents of each.
        bars: the likeliest labels, in the order of the adapted probability.
        rest: number of labels that are not among them, and their probabilities in percent, before and after.
        image: what was adapted to, as a data address.
        views: all selected views.
        groups: one for all views, or one per view.
        prior: the labels that the frozen model sees in content-free views, likeliest first. Empty without such views, and where
            they were left out.
        prior_left_out: the gate left the content-free views out of the answer.
        towards_target: advantages are what the rewards ask for less what the frozen model gives.
        steps: (objective, KL, clipped share, gradient norm) before each step.
        updated: false where the group gave no reason for a step.
        forwards, backwards, milliseconds: cost.
    """

    before: str
    after: str
    percent_before: float
    percent_after: float
    bars: tuple[Bar, ...]
    rest: tuple[int, float, float]
    image: str
    views: tuple[View, ...]
    groups: tuple[Group, ...]
    prior: tuple[tuple[str, float], ...]
    prior_left_out: bool
    towards_target: bool
    steps: tuple[tuple[float, float, float, float], ...]
    updated: bool
    forwards: float
    backwards: float
    milliseconds: float

    @property
    def changed(self) -> bool:
        return self.before != self.after


def make_episode(classifier: GRPOTTA, image: Image.Image | DecodedImage) -> Episode:
    """Adapts to one RGB image, or one that was decoded for the classifier.

    The milliseconds are those of the adaptation alone, with its views.

    Raises:
        UserError: the image is unusable.
    """
    decoded = image if isinstance(image, DecodedImage) else DecodedImage(image, image_key(image))
    began = time.perf_counter()
    explanation = classifier.explain(decoded)
    milliseconds = 1000 * (time.perf_counter() - began)
    answer = explanation.prediction
    order = sorted(answer.probabilities, key=lambda label: -answer.probabilities[label])
    shown = order[:SHOWN_LABELS]
    if answer.label_before not in shown:
        shown[-1] = answer.label_before
    bars = tuple(Bar(x, 100 * answer.probabilities_before[x], 100 * answer.probabilities[x]) for x in shown)
    rest = (
        len(order) - len(shown),
        max(0.0, 100 - sum(bar.before for bar in bars)),
        max(0.0, 100 - sum(bar.after for bar in bars)),
    )
    prior = explanation.content_free
    alike = bool(prior) and max(prior.values()) == min(prior.values())
    predict = classifier.settings.predict
    return Episode(
        before=answer.label_before,
        after=answer.label,
        percent_before=100 * answer.probabilities_before[answer.label_before],
        percent_after=100 * answer.probability,
        bars=bars,
        rest=rest,
        image=png_uri(decoded.image, 320),
        views=_views(classifier, decoded, explanation),
        groups=_groups(explanation),
        prior=() if alike else tuple(sorted(((x, 100 * p) for x, p in prior.items()), key=lambda pair: -pair[1])[:3]),
        prior_left_out=alike and isinstance(predict, Ensemble) and predict.prior > 0,
        towards_target=isinstance(classifier.settings.advantage, Target),
        steps=tuple((step.objective, step.kl, 100 * step.clipped, step.gradient_norm) for step in explanation.steps),
        updated=explanation.updated,
        forwards=answer.forwards,
        backwards=answer.backwards,
        milliseconds=milliseconds,
    )


def _views(classifier: GRPOTTA, decoded: DecodedImage, explanation: Explanation) -> tuple[View, ...]:
    """The selected views, made again from the same random numbers."""
    backbone = classifier.backbone
    settings = classifier.settings.views
    made = prepare_images(backbone, [decoded.image], [decoded.key], settings, classifier.seed).views(range(settings.views))[0]
    views = []
    for trace in explanation.views:
        best = max(trace.candidates, key=lambda candidate: candidate.probabilities[0] if candidate.probabilities else 0.0)
        percent = 100 * best.probabilities[0] if best.probabilities else float("nan")
        views.append(View(trace.view, png_uri(_denormalised(made[trace.view], backbone), 96), best.label, percent))
    return tuple(views)


def _denormalised(view: torch.Tensor, backbone: Backbone) -> Image.Image:
    pixels = (view.float() * backbone.std[:, None, None] + backbone.mean[:, None, None]).clamp(0, 1)
    return Image.fromarray((255 * pixels).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def _groups(explanation: Explanation) -> tuple[Group, ...]:
    """One group where all views have the same candidates and rewards (advantages averaged), else one per view."""
    keys = [tuple((c.label, c.reward) for c in view.candidates) for view in explanation.views]
    if any(key != keys[0] for key in keys):
        return tuple(Group(f"Group of view {view.view}", _rows(explanation, [m])) for m, view in enumerate(explanation.views))
    title = "One group for all views" if len(keys) > 1 else f"Group of view {explanation.views[0].view}"
    return (Group(title, _rows(explanation, range(len(explanation.views)))),)


def _rows(explanation: Explanation, views: Sequence[int]) -> tuple[Row, ...]:
    """The candidates that these views share, with the views' mean advantage and mean probabilities."""
    n = len(views)
    together = list(zip(*(explanation.views[m].candidates for m in views), strict=True))
    advantages = [sum(c.advantage for c in same) / n for same in together]
    rows = []
    for same, advantage, (left, width) in zip(together, advantages, bar_widths(advantages), strict=True):
        percents = tuple(100 * sum(each) / n for each in zip(*(c.probabilities for c in same), strict=True))
        answer = 100 * explanation.prediction.probabilities[same[0].label]
        rows.append(Row(same[0].label, same[0].reward, advantage, left, width, percents, answer))
    return tuple(rows)


def split_labels(text: str) -> list[str]:
    """Labels separated by commas or lines.

    Raises:
        UserError: more than 500.
    """
    labels = [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]
    if len(labels) > 500:
        raise UserError(f"{len(labels)} labels are more than the page takes; use at most 500.")
    return labels
