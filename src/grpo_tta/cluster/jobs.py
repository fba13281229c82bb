"""The work of one actor: what it is given, and the function that turns rows of the manifest into rows of answers.

The functions behind it are those of a run without Ray: `bench.runner.run_chunk` and `classifier.classify`. Imports no Ray.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, final

import pyarrow as pa
import torch

from grpo_tta.backbones.base import Backbone, Dtype, load_backbone
from grpo_tta.bench.predictions import Wanted
from grpo_tta.bench.records import FORMAT, SCHEMA
from grpo_tta.bench.runner import run_chunk
from grpo_tta.bench.runs import RunSettings, describe_run
from grpo_tta.classifier import GRPOTTA, Prediction, classify
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
    device: str = "auto"
    download: bool = False
    dtype: Dtype = "float32"
    weights: str | None = None
    class_names: Mapping[str, str] | None = None

    def load(self) -> Backbone:
        return load_backbone(
            self.name,
            device=self.device,
            download=self.download,
            dtype=self.dtype,
            weights=self.weights,
            class_names=self.class_names,
        )


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
    """What every actor of `predict` is given.

    Attributes:
        labels, options: of `GRPOTTA`.
        wanted, embeddings: what rows hold.
    """

    model: ModelName
    labels: Sequence[str] | Mapping[str, str]
    options: Mapping[str, Any]
    batch: int
    manifest: Manifest
    wanted: Wanted = field(default_factory=Wanted)
    embeddings: bool = False

    def _classifier(self) -> GRPOTTA:
        found = GRPOTTA(self.model.load(), self.labels, batch=self.batch, **self.options)
        return found.with_embeddings() if self.embeddings else found

    def _width(self, classifier: GRPOTTA) -> int:
        """D of the embeddings; 0 without them."""
        return int(classifier.policy.text_features.shape[1]) if self.embeddings else 0

    def describe(self) -> dict[str, Any]:
        """What the answers depend on.

        Raises:
            UserError: model, labels or templates cannot be used.
        """
        found = self._classifier()
        return {
            "format": FORMAT,
            "model": found.backbone.name,
            "fingerprint": found.backbone.fingerprint,
            "device": str(found.backbone.device),
            "dtype": str(found.backbone.dtype).removeprefix("torch."),
            "labels": list(found.labels),
            "templates": list(found.policy.prompts.templates),
            "seed": found.seed,
            "settings": to_plain(found.settings),
            "images": self.manifest.rows,
            "embeddings": self._width(found),
            **self.wanted.describe(),
        }

    def start(self) -> Callable[[pa.Table, bool], pa.Table]:
        """Loads the model, once per actor. The function returned classifies rows of the manifest."""
        classifier = self._classifier()
        schema = self.wanted.schema(self._width(classifier))

        def classify_rows(table: pa.Table, given_up: bool) -> pa.Table:
            ids = table["image_id"].to_pylist()
            with contextlib.closing(Images(table, self.manifest.base)) as images:
                load = _refuse if given_up else images.place
                answers = classify(classifier, load, len(ids), self.batch)
                rows = [
                    self._row(ids[number], images.as_named(number, answer) if isinstance(answer, str) else answer)
                    for number, answer in answers
                ]
            return pa.Table.from_pylist(rows, schema=schema)

        return classify_rows

    def _row(self, image_id: str, answer: Prediction | str) -> dict[str, Any]:
        row = self.wanted.row(image_id, answer)
        if isinstance(answer, Prediction) and answer.embedding is not None:
            row["embedding"] = answer.embedding.tolist()
        return row


def _refuse(number: int) -> Any:
    raise UserError(GAVE_UP)


Job = BenchJob | PredictJob
