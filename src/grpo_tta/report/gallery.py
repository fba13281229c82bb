"""Episodes as a reader can follow them: the image, three of its crops (where it can be had again: from the nano suite, which
is drawn, or from the photographs that the reader has), the group, before and after."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, final

import pandas as pd
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from grpo_tta.data import photos
from grpo_tta.data.tasks import Task, nano_tasks
from grpo_tta.images.views import ImageViews, ViewSettings
from grpo_tta.report.tables import nano_place

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
    """One row told. `outcome` is `repaired`, `broken` or `wrong`; `image` and `crops` are empty where it cannot be drawn."""

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
    """Chosen episodes, and how many there were to choose from (rows, so an image counts once a seed).

    `wrong` are the most confident errors, those that the frozen model made, too.
    """

    repaired: list[Episode]
    broken: list[Episode]
    wrong: list[Episode]
    repaired_rows: int
    broken_rows: int
    wrong_rows: int


@cache
def _nano_task(name: str, split: str) -> Task:
    return nano_tasks([name], split)[0]


@cache
def _photo_task(root: Path, name: str, split: str) -> tuple[Task, dict[str, int]]:
    task = photos.photo_tasks(root, [name], split)[0]
    return task, {image_id: number for number, image_id in enumerate(task.image_ids)}


def _again(image_id: str, photos_root: Path | None) -> tuple[Image.Image, Sequence[str]] | None:
    """An image as the run saw it, and the class names of its task; None where it cannot be had."""
    if drawn := nano_place(image_id):
        name, split, number = drawn
        task = _nano_task(name, split)
    elif photos_root is not None and (place := photos.place(image_id)):
        task, numbers = _photo_task(photos_root, *place)
        if (number := numbers.get(image_id, -1)) < 0:
            return None
    else:
        return None
    return task.load(number)[0].convert("RGB"), task.classes


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return data_uri("image/png", buffer.getvalue())


def _crops(image: Image.Image, image_id: str, seed: int, settings: ViewSettings) -> list[Image.Image]:
    """The first crops that the run saw, made again from the same random numbers."""
    first = functional.resize(functional.to_image(image), [image.height, image.height]).float() / 255
    few = replace(settings, views=CROPS + 1, content_free=0)
    views = ImageViews(image, first, image_id, seed, few, torch.zeros(3), torch.ones(3)).views(range(few.views))
    return [functional.to_pil_image(view) for view in views[1:]]


def _name(classes: Sequence[str], label: int) -> str:
    return classes[label] if label < len(classes) else f"class {label}"


def _group(row: Any, classes: Sequence[str]) -> list[Candidate]:
    rewards, advantages = [float(x) for x in row.rewards], [float(x) for x in row.advantages]
    if not rewards:
        return []
    low, high = min(rewards), max(rewards)
    largest = max(abs(a) for a in advantages) or 1.0
    out = []
    for number, reward, advantage in zip(row.group, rewards, advantages, strict=True):
        reward_width = 4 + 96 * (reward - low) / (high - low) if high > low else 4.0
        width = 50 * abs(advantage) / largest
        left = 50.0 if advantage >= 0 else 50 - width
        out.append(Candidate(_name(classes, number), reward, advantage, reward_width, left, width, number == row.label))
    return out


def _episode(row: Any, settings: ViewSettings, classes: Mapping[str, Sequence[str]], photos_root: Path | None) -> Episode:
    names = classes.get(row.task, ())
    picture, crops = "", []
    if found := _again(row.image_id, photos_root):
        image, names = found[0], names or found[1]
        picture, crops = _png(image), [_png(crop) for crop in _crops(image, row.image_id, row.seed, settings)]
    right, was_right = row.prediction == row.label, row.prediction_before == row.label
    return Episode(
        outcome="repaired" if right else "broken" if was_right else "wrong",
        task=row.task,
        image_id=row.image_id,
        seed=row.seed,
        truth=_name(names, row.label),
        before=_name(names, row.prediction_before),
        confidence_before=100 * row.confidence_before,
        after=_name(names, row.prediction),
        confidence=100 * row.confidence,
        image=picture,
        crops=crops,
        group=_group(row, names),
    )


def make_gallery(
    rows: pd.DataFrame,
    reference: str,
    views: Mapping[str, Any],
    classes: Mapping[str, Sequence[str]],
    wanted: int = 6,
    photos_root: Path | None = None,
) -> Gallery:
    """The most confident repaired, broken and wrong images of the reference: of each at most `wanted`, and one a task where
    there are enough tasks.

    Args:
        rows: of `records.read_records`.
        reference: the method whose episodes are shown.
        views: how the run made its views, as its `run.json` has it.
        classes: task -> class names.
        wanted: episodes of each outcome.
        photos_root: folder that holds the photographs of the photos suite; without it they are not shown.
    """
    mine = rows[(rows["method"] == reference) & rows["error"].isna()]
    right, was_right = mine["prediction"] == mine["label"], mine["prediction_before"] == mine["label"]
    repaired, broken, wrong = mine[right & ~was_right], mine[~right & was_right], mine[~right & ~was_right]
    settings = ViewSettings(**views)

    def episodes(some: pd.DataFrame) -> list[Episode]:
        some = some.sort_values("confidence", ascending=False, kind="stable").drop_duplicates(["task", "image_id"])
        turn = some.groupby("task", sort=False).cumcount()  # first the best of each task, then the second best
        chosen = some.loc[turn.sort_values(kind="stable").index].head(wanted)
        return [_episode(row, settings, classes, photos_root) for row in chosen.itertuples()]

    return Gallery(episodes(repaired), episodes(broken), episodes(wrong), len(repaired), len(broken), len(wrong))
