"""Episodes as a reader can follow them: the image, three of its crops, the group, before and after.

Images are shown where they can be made again: those of the nano suite are drawn, photographs come from the reader's folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, final

import pandas as pd
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from grpo_tta.data.reopen import reopen
from grpo_tta.data.tasks import Task, image_of
from grpo_tta.images.views import ImageViews, ViewSettings
from grpo_tta.method.parse import from_plain
from grpo_tta.report.embed import bar_widths, png_uri, widths_from_lowest

CROPS = 3
Outcome = Literal["repaired", "broken", "wrong"]


@final
@dataclass(frozen=True)
class Candidate:
    """One class of the group; widths in percent of the bar's field, `left` where a bar begins.

    Rewards are drawn from the lowest to the highest of the group, advantages from zero to the largest in size.
    """

    label: str
    reward: float
    advantage: float
    reward_width: float
    advantage_left: float
    advantage_width: float
    is_truth: bool


@final
@dataclass(frozen=True)
class Episode:
    """One row. `image` and `crops` are `data:` addresses, empty where the image cannot be made again."""

    outcome: Outcome
    task: str
    image_id: str
    seed: int
    truth: str
    before: str
    confidence_before: float
    after: str
    confidence: float
    image: str
    crops: list[str]
    group: list[Candidate]


@final
@dataclass(frozen=True)
class Gallery:
    """Chosen episodes, and how many there were to choose from (rows, so an image counts once per seed).

    `wrong` are the most confident errors, those that the frozen model made, too.
    """

    repaired: list[Episode]
    broken: list[Episode]
    wrong: list[Episode]
    repaired_rows: int
    broken_rows: int
    wrong_rows: int


@final
class _Images:
    """The images of tasks that can be made again, by their ids."""

    def __init__(self, sources: Mapping[str, Mapping[str, Any]], photos_root: Path | None) -> None:
        self._sources, self._photos_root = sources, photos_root
        self._tasks: dict[str, tuple[Task, dict[str, int]] | None] = {}

    def find(self, task: str, image_id: str) -> tuple[Image.Image, str] | None:
        """An image as the run saw it, and the name of its random numbers; None where it cannot be made again."""
        if task not in self._tasks:
            made = reopen(self._sources.get(task, {}), self._photos_root)
            known = made is not None and made.name == task  # another name: the run saw a changed version
            self._tasks[task] = (made, {name: i for i, name in enumerate(made.image_ids)}) if made and known else None
        found = self._tasks[task]
        if found is None or image_id not in found[1]:
            return None
        number = found[1][image_id]
        decoded, _ = image_of(found[0], number, None)
        return decoded.image, decoded.key


def _crops(image: Image.Image, key: str, seed: int, settings: ViewSettings) -> list[Image.Image]:
    """The first crops that the run saw, made again from the same random numbers."""
    first = functional.resize(functional.to_image(image), [image.height, image.height]).float() / 255
    few = replace(settings, views=CROPS + 1, content_free=0)
    views = ImageViews(image, first, key, seed, few, torch.zeros(3), torch.ones(3)).views(range(few.views))
    return [functional.to_pil_image(view) for view in views[1:]]


def _group(row: Any, classes: Sequence[str]) -> list[Candidate]:
    rewards, advantages = [float(x) for x in row.rewards], [float(x) for x in row.advantages]
    bars = zip(row.group, rewards, widths_from_lowest(rewards), advantages, bar_widths(advantages), strict=True)
    return [
        Candidate(classes[label], reward, advantage, reward_width, left, width, label == row.label)
        for label, reward, reward_width, advantage, (left, width) in bars
    ]


def _episode(row: Any, settings: ViewSettings, classes: Sequence[str], images: _Images) -> Episode:
    shown, crops = "", []
    if found := images.find(row.task, row.image_id):
        image, key = found
        shown, crops = png_uri(image), [png_uri(crop) for crop in _crops(image, key, row.seed, settings)]
    right, was_right = row.prediction == row.label, row.prediction_before == row.label
    return Episode(
        outcome="repaired" if right else "broken" if was_right else "wrong",
        task=row.task,
        image_id=row.image_id,
        seed=row.seed,
        truth=classes[row.label],
        before=classes[row.prediction_before],
        confidence_before=100 * row.confidence_before,
        after=classes[row.prediction],
        confidence=100 * row.confidence,
        image=shown,
        crops=crops,
        group=_group(row, classes),
    )


def make_gallery(
    rows: pd.DataFrame,
    reference: str,
    views: Mapping[str, Any],
    classes: Mapping[str, Sequence[str]],
    sources: Mapping[str, Mapping[str, Any]],
    photos_root: Path | None = None,
    wanted: int = 6,
) -> Gallery:
    """The most confident repaired, broken and wrong images of the reference: of each at most `wanted`, and one per task
    where there are enough tasks.

    Args:
        rows: of `records.read_records`.
        reference: the method whose episodes are shown.
        views: how the run made its views, as its `run.json` has it.
        classes: task -> class names.
        sources: task -> where it comes from, as its `run.json` has it.
        photos_root: folder that holds the photographs of the photos suite; without it they are not shown.
        wanted: episodes of each outcome.
    """
    mine = rows[(rows["method"] == reference) & rows["error"].isna()]
    right, was_right = mine["prediction"] == mine["label"], mine["prediction_before"] == mine["label"]
    repaired, broken, wrong = mine[right & ~was_right], mine[~right & was_right], mine[~right & ~was_right]
    settings = from_plain(views)
    images = _Images(sources, photos_root)

    def episodes(some: pd.DataFrame) -> list[Episode]:
        some = some.sort_values("confidence", ascending=False, kind="stable").drop_duplicates(["task", "image_id"])
        turn = some.groupby("task", sort=False).cumcount()  # first the best of each task, then the second best
        chosen = some.loc[turn.sort_values(kind="stable").index].head(wanted)
        return [_episode(row, settings, classes[str(row.task)], images) for row in chosen.itertuples()]

    return Gallery(episodes(repaired), episodes(broken), episodes(wrong), len(repaired), len(broken), len(wrong))
