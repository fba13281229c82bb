"""What the page tells of one image: answer, views, group and steps, ready to be drawn. No Gradio, no HTML."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from PIL import Image

from grpo_tta import GRPOTTA, Explanation, UserError
from grpo_tta.backbones.base import Backbone
from grpo_tta.engine.batches import make_batch
from grpo_tta.images.read import image_key

SHOWN_LABELS = 8
SHOWN_VIEWS = 12


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
    """One candidate: percents are the mean of pi_theta over the views that propose it, before each step; then its answer.

    Widths and lefts are of the advantage's bar, in percent of its field; zero is in the middle.
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


@final
@dataclass(frozen=True)
class Episode:
    """One image's adaptation, top to bottom.

    Attributes:
        before, after: the answers; percents of each.
        bars: the likeliest labels, in the order of the adapted probability.
        rest: number of labels that are not among them, and their probabilities in percent, before and after.
        image: what was adapted to, as a data address.
        views, more_views: the views that are shown, and how many more there are.
        groups: one, or one a view.
        prior: the labels that the frozen model sees in the content-free copies, likeliest first (empty without copies).
        steps: (objective, KL, clipped share, gradient norm) before each step.
        stepped: false where the group gave no reason for a step.
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
    more_views: int
    groups: tuple[Group, ...]
    prior: tuple[tuple[str, float], ...]
    steps: tuple[tuple[float, float, float, float], ...]
    stepped: bool
    forwards: float
    backwards: float
    milliseconds: float

    @property
    def changed(self) -> bool:
        return self.before != self.after


def tell(classifier: GRPOTTA, image: Image.Image) -> Episode:
    """Adapts to one RGB image and tells everything; milliseconds are those of the adaptation alone, views included.

    Raises:
        UserError: the image is unusable.
    """
    began = time.perf_counter()
    told = classifier.explain(image)
    milliseconds = 1000 * (time.perf_counter() - began)
    answer = told.prediction
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
    return Episode(
        before=answer.label_before,
        after=answer.label,
        percent_before=100 * answer.probabilities_before[answer.label_before],
        percent_after=100 * answer.probability,
        bars=bars,
        rest=rest,
        image=address(image, 320),
        views=_views(classifier, image, told),
        more_views=max(0, len(told.views) - SHOWN_VIEWS),
        groups=_groups(told),
        prior=tuple(sorted(((x, 100 * p) for x, p in told.content_free.items()), key=lambda pair: -pair[1])[:3]),
        steps=tuple((step.objective, step.kl, 100 * step.clipped, step.gradient_norm) for step in told.steps),
        stepped=told.stepped,
        forwards=answer.forwards,
        backwards=answer.backwards,
        milliseconds=milliseconds,
    )


def _views(classifier: GRPOTTA, image: Image.Image, told: Explanation) -> tuple[View, ...]:
    """The selected views, made again from the same random numbers."""
    backbone = classifier.backbone
    made, _ = make_batch(backbone, [image], [image_key(image)], classifier.settings.views, classifier.seed)
    views = []
    for trace in told.views[:SHOWN_VIEWS]:
        best = max(trace.candidates, key=lambda candidate: candidate.probabilities[0] if candidate.probabilities else 0.0)
        percent = 100 * best.probabilities[0] if best.probabilities else float("nan")
        views.append(View(trace.view, address(_denormalised(made[0, trace.view], backbone), 96), best.label, percent))
    return tuple(views)


def _denormalised(view: torch.Tensor, backbone: Backbone) -> Image.Image:
    pixels = (view.float() * backbone.std[:, None, None] + backbone.mean[:, None, None]).clamp(0, 1)
    return Image.fromarray((255 * pixels).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def _groups(told: Explanation) -> tuple[Group, ...]:
    """One group where all views have the same candidates and rewards (advantages averaged), else one a view."""
    keys = [tuple((c.label, c.reward) for c in view.candidates) for view in told.views]
    if any(key != keys[0] for key in keys):
        return tuple(Group(f"Group of view {view.view}", _rows(told, [m])) for m, view in enumerate(told.views))
    title = "One group for all views" if len(keys) > 1 else f"Group of view {told.views[0].view}"
    return (Group(title, _rows(told, range(len(told.views)))),)


def _rows(told: Explanation, views: Sequence[int]) -> tuple[Row, ...]:
    """The candidates that these views share, with the views' mean advantage and mean probabilities."""
    n = len(views)
    together = list(zip(*(told.views[m].candidates for m in views), strict=True))
    advantages = [sum(c.advantage for c in same) / n for same in together]
    largest = max(abs(a) for a in advantages) or 1.0
    rows = []
    for same, advantage in zip(together, advantages, strict=True):
        width = 50 * abs(advantage) / largest
        left = 50.0 if advantage >= 0 else 50 - width
        percents = tuple(100 * sum(each) / n for each in zip(*(c.probabilities for c in same), strict=True))
        answer = 100 * told.prediction.probabilities[same[0].label]
        rows.append(Row(same[0].label, same[0].reward, advantage, left, width, percents, answer))
    return tuple(rows)


def address(image: Image.Image, side: int) -> str:
    """A `data:` address of the image, its longer side at most `side` pixels; PNG, so that small ones stay exact."""
    small = image.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def split_labels(text: str) -> list[str]:
    """Labels separated by commas or lines.

    Raises:
        UserError: more than 500.
    """
    labels = [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]
    if len(labels) > 500:
        raise UserError(f"{len(labels)} labels are more than the page takes; use at most 500.")
    return labels
