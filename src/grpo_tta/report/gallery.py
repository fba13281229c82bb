"""Episodes as a reader can follow them: the image, three of its crops, the group, before and after.

Images are shown where they can be made again: those of the nano suite are drawn, a user's own are read from where they lay, and
the photographs of the suites come from the reader's folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, final, get_args

import pandas as pd
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from grpo_tta.bench.runs import images_hash
from grpo_tta.data.reopen import reopen
from grpo_tta.data.tasks import Task, image_of
from grpo_tta.errors import UserError
from grpo_tta.images.views import ImageViews, ViewSettings
from grpo_tta.method.parse import from_plain
from grpo_tta.report.embed import bar_widths, image_uri, widths_from_lowest

CROPS = 3
WANTED = 6
"""Episodes of each outcome, of the reference."""
OF_OTHERS = 120
"""Episodes of all the other methods together."""
_LARGEST, _SMALL, _DECODED = 288, 96, 512
Outcome = Literal["repaired", "broken", "wrong"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


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
    method: str
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
    command: str


@final
@dataclass(frozen=True)
class Gallery:
    """Chosen episodes, those of the reference first, and how many of its rows there were to choose from.

    An image counts once per seed. `wrong` are errors that the frozen model made, too.
    """

    episodes: list[Episode]
    rows: dict[Outcome, int]

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(e.method for e in self.episodes))

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(e.task for e in self.episodes))

    @property
    def hidden_images(self) -> bool:
        """Whether an episode has no image."""
        return any(not e.image for e in self.episodes)


@final
@dataclass(frozen=True)
class Material:
    """What the runs say of the images behind their rows.

    Attributes:
        views: how the runs made their views, as `run.json` has it.
        classes: task -> class names.
        sources: task -> where it comes from (`Task.source`).
        images: task -> what distinguishes its images from others (`images_hash`), where that is known.
        photos_root: folder that holds the photographs of the suites photos, imagenet-sample and streams; None leaves them out.
        shown: images are shown at all.
    """

    views: Mapping[str, Any]
    classes: Mapping[str, Sequence[str]]
    sources: Mapping[str, Mapping[str, Any]]
    images: Mapping[str, str]
    photos_root: Path | None = None
    shown: bool = True


@final
class _Images:
    """The images of tasks that can be made again, by their ids."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self._tasks: dict[str, tuple[Task, dict[str, int]] | None] = {}

    def find(self, task: str, image_id: str) -> tuple[Image.Image, str] | None:
        """An image as the run saw it, and the name of its random numbers; None where it cannot be made again."""
        if task not in self._tasks:
            self._tasks[task] = self._reopened(task) if self._material.shown else None
        found = self._tasks[task]
        if found is None or image_id not in found[1]:
            return None
        try:
            decoded, _ = image_of(found[0], found[1][image_id], _DECODED)
        except UserError:
            return None  # gone or damaged by now
        return decoded.image, decoded.key

    def _reopened(self, name: str) -> tuple[Task, dict[str, int]] | None:
        made = reopen(self._material.sources.get(name, {}), self._material.photos_root, name)
        if made is None or made.name != name:
            return None  # another name: the run saw a changed version
        if "data" in made.source and self._material.images.get(name) != images_hash(made):
            return None  # files were added, removed or replaced since
        return made, {image_id: number for number, image_id in enumerate(made.image_ids)}


def _crops(image: Image.Image, key: str, seed: int, settings: ViewSettings) -> list[Image.Image]:
    """The first crops that the run saw, made again from the same random numbers."""
    side = min(image.height, _LARGEST)
    first = functional.resize(functional.to_image(image), [side, side]).float() / 255
    few = replace(settings, views=CROPS + 1, content_free=0)
    views = ImageViews(image, first, key, seed, few, torch.zeros(3), torch.ones(3)).views(range(few.views))
    return [functional.to_pil_image(view.clamp(0, 1)) for view in views[1:]]


def _group(row: Any, classes: Sequence[str]) -> list[Candidate]:
    rewards, advantages = [float(x) for x in row.rewards], [float(x) for x in row.advantages]
    bars = zip(row.group, rewards, widths_from_lowest(rewards), advantages, bar_widths(advantages), strict=True)
    return [
        Candidate(classes[label], reward, advantage, reward_width, left, width, label == row.label)
        for label, reward, reward_width, advantage, (left, width) in bars
    ]


@final
@dataclass(frozen=True)
class _Maker:
    """Rows into episodes."""

    material: Material
    images: _Images
    command: Callable[[str, str, int], str]

    def episode(self, row: Any, outcome: Outcome, with_crops: bool) -> Episode:
        classes = self.material.classes[str(row.task)]
        shown, crops = "", []
        if found := self.images.find(row.task, row.image_id):
            image, key = found
            shown = image_uri(image, _LARGEST if with_crops else _SMALL)
            if with_crops:
                views = _crops(image, key, row.seed, from_plain(self.material.views))
                crops = [image_uri(crop, _SMALL) for crop in views]
        return Episode(
            outcome=outcome,
            method=row.method,
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
            group=_group(row, classes) if with_crops else [],
            command=self.command(row.task, row.method, row.seed),
        )


def _by_outcome(rows: pd.DataFrame) -> dict[Outcome, pd.DataFrame]:
    """Rows whose answer is wrong, or was."""
    fine = rows[rows["error"].isna()]
    right, was_right = fine["prediction"] == fine["label"], fine["prediction_before"] == fine["label"]
    return {"repaired": fine[right & ~was_right], "broken": fine[~right & was_right], "wrong": fine[~right & ~was_right]}


def _chosen(some: pd.DataFrame, wanted: int) -> pd.DataFrame:
    """The most confident, each image once: first the best of each task, then the second best."""
    some = some.sort_values("confidence", ascending=False, kind="stable").drop_duplicates(["task", "image_id"])
    turn = some.groupby("task", sort=False).cumcount()
    return some.loc[turn.sort_values(kind="stable").index].head(wanted)


def make_gallery(
    rows: pd.DataFrame, reference: str, material: Material, command: Callable[[str, str, int], str], wanted: int = WANTED
) -> Gallery:
    """The most confident repaired, broken and wrong images of every method, from as many tasks as there are.

    Args:
        rows: of `records.read_records`.
        reference: the method of which most is shown: `wanted` episodes of each outcome, with crops and group.
        material: what is known of the images.
        command: (task, method, seed) -> the command that makes the row again; empty where there is none.
        wanted: episodes of each outcome of the reference. The other methods share `OF_OTHERS`.
    """
    maker = _Maker(material, _Images(material), command)
    others = [str(name) for name in rows["method"].unique() if name != reference]
    few = max(1, min(wanted, OF_OTHERS // max(1, len(OUTCOMES) * len(others))))
    episodes: list[Episode] = []
    counts: dict[Outcome, int] = {}
    for method in (reference, *others):
        mine = method == reference
        for outcome, some in _by_outcome(rows[rows["method"] == method]).items():
            if mine:
                counts[outcome] = len(some)
            shown = _chosen(some, wanted if mine else few)
            episodes += [maker.episode(row, outcome, mine) for row in shown.itertuples()]
    return Gallery(episodes, counts)
