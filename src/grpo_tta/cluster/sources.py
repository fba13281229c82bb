"""Where the images of a benchmark come from: tasks that draw their own, or a manifest of the user's. Imports no Ray."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, final

import pyarrow as pa

from grpo_tta.backbones.base import Backbone
from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.bench.runner import task_policy
from grpo_tta.cluster.manifest import Images, Manifest, join, open_manifest
from grpo_tta.data.custom import ALL, task_name
from grpo_tta.data.labels import class_names, names_may_repeat, own_names, read_labels
from grpo_tta.data.tasks import StoredImages, Task
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError


class Source(Protocol):
    """Where the images of a benchmark come from. Travels to the actors.

    Attributes:
        counts: task -> how many images.
        sources: task -> where it comes from, where a report can show its images.
        notes: task -> what was left out of it, a sentence each.
    """

    @property
    def counts(self) -> Mapping[str, int]: ...

    @property
    def sources(self) -> Mapping[str, Mapping[str, Any]]: ...

    @property
    def notes(self) -> Mapping[str, tuple[str, ...]]: ...

    def policy(self, backbone: Backbone, name: str) -> Policy:
        """The frozen model with the prompts of a task."""
        ...

    def split(self, table: pa.Table) -> Iterator[tuple[Task, list[int], list[int]]]:
        """Rows of the manifest by task: the task, numbers of its images, places in its stream."""
        ...


@final
@dataclass(frozen=True)
class TaskSource:
    """Tasks that draw their own images from a number (the nano suite)."""

    tasks: tuple[Task, ...]

    @property
    def counts(self) -> Mapping[str, int]:
        return {task.name: len(task.image_ids) for task in self.tasks}

    @property
    def sources(self) -> Mapping[str, Mapping[str, Any]]:
        return {task.name: dict(task.source) for task in self.tasks}

    @property
    def notes(self) -> Mapping[str, tuple[str, ...]]:
        return {task.name: task.notes for task in self.tasks}

    def policy(self, backbone: Backbone, name: str) -> Policy:
        (task,) = (task for task in self.tasks if task.name == name)
        return task_policy(backbone, task)

    def split(self, table: pa.Table) -> Iterator[tuple[Task, list[int], list[int]]]:
        rows = table.select(["task", "number", "order"]).to_pylist()
        for task in self.tasks:
            if mine := [row for row in rows if row["task"] == task.name]:
                yield task, [row["number"] for row in mine], [row["order"] for row in mine]


@final
@dataclass(frozen=True)
class ManifestSource:
    """One task of the user's own.

    Attributes:
        names: labels in their order, with the name of each for prompts.
        texts: what stands in the manifest -> the label that it means.
    """

    manifest: Manifest
    names: Mapping[str, str]
    template: str
    texts: Mapping[Any, str]

    @property
    def counts(self) -> Mapping[str, int]:
        return {self.manifest.name: self.manifest.rows}

    @property
    def sources(self) -> Mapping[str, Mapping[str, Any]]:
        return {}

    @property
    def notes(self) -> Mapping[str, tuple[str, ...]]:
        return {self.manifest.name: self.manifest.notes}

    @property
    def _classes(self) -> tuple[str, ...]:
        return class_names(self.names)

    def policy(self, backbone: Backbone, name: str) -> Policy:
        names, template = self._classes, (self.template,)
        return Policy(backbone, make_prompts(backbone, names, template, template, repeats=names_may_repeat(names)))

    def split(self, table: pa.Table) -> Iterator[tuple[Task, list[int], list[int]]]:
        ids, labels = table["image_id"].to_pylist(), table["label"].to_pylist()
        places = table["order"].to_pylist() if "order" in table.column_names else [-1] * len(ids)
        images = Images(table, self.manifest.base)
        numbers = {label: number for number, label in enumerate(self.names)}

        def label_of(number: int) -> int:
            label = self.texts.get(labels[number])
            if label is None or label not in numbers:
                shown = labels[number] if label is None else label
                raise UserError(f"{ids[number]}: label {shown!r} is unknown; add it to the labels file or correct the row.")
            return numbers[label]

        names, prompts = self._classes, (self.template,)
        load = StoredImages(images.place, label_of)
        task = Task(self.manifest.name, "real", names, self.template, prompts, ids, load, keyed_by="pixels")  # as locally
        with contextlib.closing(images):
            yield task, list(range(len(ids))), places


def manifest_source(
    data: str,
    out: str,
    template: str,
    labels_file: Path | None,
    *,
    split: str | None = None,
    domain: str | None = None,
    allow_empty: bool = False,
) -> ManifestSource:
    """The user's own images with labels; without a labels file, the names found in the data, sorted.

    Args:
        split, domain: a folder of the data that is read in place of the whole; one of the two.
        allow_empty: a folder without an image is a class all the same.

    Raises:
        UserError: as `open_manifest` and `read_labels`, or the choice of a folder is no single one.
    """
    if domain == ALL or (split is not None and domain is not None):
        raise UserError(f"Ray reads one folder at a time; give it as --data, such as {join(data, 'NAME')}.")
    part = split if split is not None else domain
    place = data if part is None else join(data, part)
    manifest = open_manifest(place, out, labelled=True, with_empty=allow_empty or labels_file is not None)
    if part is not None:
        manifest = replace(manifest, name=f"{task_name(Path(data).name)}-{manifest.name}")
    texts = manifest.labels()
    names = read_labels(labels_file) if labels_file else own_names(sorted({*texts.values(), *manifest.classes} - {""}), place)
    return ManifestSource(manifest, names, template, texts)
