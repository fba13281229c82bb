"""The work of one actor: what it is given, and the function that turns rows of the manifest into rows of answers.

The functions behind it are those of a run without Ray: `bench.runner.run_chunk` and `classify.classify`. Imports no Ray.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, final

import pyarrow as pa
import torch

from grpo_tta.backbones.base import Backbone, Dtype, load_backbone
from grpo_tta.bench.predictions import PREDICTIONS, prediction_row
from grpo_tta.bench.records import SCHEMA
from grpo_tta.bench.runner import run_chunk
from grpo_tta.bench.runs import RunSettings, describe_run
from grpo_tta.classifier import GRPOTTA, classify
from grpo_tta.cluster.attempts import GAVE_UP
from grpo_tta.cluster.manifest import Images, Manifest
from grpo_tta.cluster.sources import Source
from grpo_tta.config.serialise import to_plain
from grpo_tta.engine.interface import Method
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError, as_text


@final
@dataclass(frozen=True)
class ModelName:
    """The model as a name, for every actor to load: see `grpo_tta.backbones.base.load_backbone`."""

    name: str
    device: str = "cpu"
    download: bool = False
    dtype: Dtype = "float32"

    def load(self) -> Backbone:
        return load_backbone(self.name, device=self.device, download=self.download, dtype=self.dtype)


@final
@dataclass(frozen=True)
class BenchJob:
    """What every actor of a benchmark is given."""

    model: ModelName
    source: Source
    methods: tuple[Method, ...]
    settings: RunSettings

    def describe(self) -> dict[str, Any]:
        """What the answers depend on.

        Raises:
            UserError: the model or the prompts cannot be made.
        """
        backbone = self.model.load()
        prompts = {name: self.source.policy(backbone, name).prompts for name in self.source.counts}
        return describe_run(backbone, [], self.methods, self.settings) | {
            "tasks": dict(self.source.counts),
            "sources": dict(self.source.sources),
            "notes": {name: [as_text(note) for note in notes] for name, notes in self.source.notes.items() if notes},
            "classes": {name: list(found.labels) for name, found in prompts.items()},
            "templates": {name: list(found.templates) for name, found in prompts.items()},
        }

    def start(self) -> Callable[[pa.Table, bool], pa.Table]:
        """Loads the model, once per actor. The function returned adapts to rows of the manifest."""
        backbone = self.model.load()
        policies: dict[str, Policy] = {}

        def adapt_rows(table: pa.Table, given_up: bool) -> pa.Table:
            records = []
            for task, numbers, places in self.source.split(table):
                if task.name not in policies:
                    policies[task.name] = self.source.policy(backbone, task.name)
                chosen = replace(task, load=_refuse) if given_up else task
                states: dict[str, dict[str, torch.Tensor]] = {method.name: {} for method in self.methods}
                records += run_chunk(policies[task.name], chosen, numbers, places, self.methods, states, self.settings)
            return pa.Table.from_pylist([asdict(record) for record in records], schema=SCHEMA)

        return adapt_rows


@final
@dataclass(frozen=True)
class PredictJob:
    """What every actor of `predict` is given. `options` are those of `GRPOTTA`."""

    model: ModelName
    labels: tuple[str, ...]
    options: Mapping[str, Any]
    batch: int
    manifest: Manifest

    def _classifier(self) -> GRPOTTA:
        return GRPOTTA(self.model.load(), self.labels, batch=self.batch, **self.options)

    def describe(self) -> dict[str, Any]:
        """What the answers depend on.

        Raises:
            UserError: model, labels or templates cannot be used.
        """
        found = self._classifier()
        return {
            "model": found.backbone.name,
            "fingerprint": found.backbone.fingerprint,
            "labels": list(found.labels),
            "templates": list(found.policy.prompts.templates),
            "seed": found.seed,
            "settings": to_plain(found.settings),
            "images": self.manifest.rows,
        }

    def start(self) -> Callable[[pa.Table, bool], pa.Table]:
        """Loads the model, once per actor. The function returned classifies rows of the manifest."""
        classifier = self._classifier()

        def classify_rows(table: pa.Table, given_up: bool) -> pa.Table:
            ids = table["image_id"].to_pylist()
            with contextlib.closing(Images(table, self.manifest.base)) as images:
                load = _refuse if given_up else images.place
                answers = classify(classifier, load, len(ids), self.batch)
                rows = [{"image_id": ids[number]} | prediction_row(answer) for number, answer in answers]
            return pa.Table.from_pylist(rows, schema=PREDICTIONS)

        return classify_rows


def _refuse(number: int) -> Any:
    raise UserError(GAVE_UP)


Job = BenchJob | PredictJob
