"""From a method's `Adaptation` to the rows of the records. Labels enter here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, final

from grpo_tta.bench.records import Record
from grpo_tta.bench.runs import versions
from grpo_tta.config.serialise import short_hash
from grpo_tta.data.tasks import Task
from grpo_tta.engine.distributions import entropy
from grpo_tta.engine.interface import Adaptation, Method
from grpo_tta.errors import UserError, sentence


@final
@dataclass(frozen=True)
class KnownImage:
    """What the runner knows of an image and a method must not: its number in the task, its place in the stream, its label.

    `key` is what a method gets in place of the id, to draw the image's random numbers by.
    """

    image_id: str
    number: int
    order: int
    label: int = -1
    key: str = ""


@final
@dataclass(frozen=True)
class RowMaker:
    """Makes the rows of one method on one task under one seed."""

    task: Task
    method: Method
    seed: int

    def rows(
        self, images: Sequence[KnownImage], adaptation: Adaptation, milliseconds: float, peak_memory_mb: float
    ) -> list[Record]:
        """One row per image of the adaptation; time and memory are the same for all."""
        return [
            Record(**self._about(image), **values, milliseconds=milliseconds, peak_memory_mb=peak_memory_mb)
            for image, values in zip(images, _values(adaptation), strict=True)
        ]

    def failed(self, image: KnownImage, error: Exception) -> Record:
        """The row of an image that could not be read, or on which the method raised."""
        return Record(**self._about(image), error=sentence(error))

    @cached_property
    def _settings_hash(self) -> str:
        """Once for all rows: a function of a user's own is hashed with its source."""
        return short_hash(self.method.settings)

    def _about(self, image: KnownImage) -> dict[str, Any]:
        return {
            "task": self.task.name,
            "kind": self.task.kind,
            "image_id": image.image_id,
            "order": image.order,
            "label": image.label,
            "method": self.method.name,
            "protocol": self.method.protocol,
            "reward": self.method.reward,
            "seed": self.seed,
            "settings_hash": self._settings_hash,
            "versions": versions(),
        }


def _values(adaptation: Adaptation) -> Iterator[dict[str, Any]]:
    """What an adaptation says about each image, as plain values."""
    before, after = adaptation.before.double().cpu(), adaptation.after.double().cpu()
    top = min(5, after.shape[-1])
    entropy_before, entropy_after = entropy(before), entropy(after)
    columns = _columns(adaptation)
    for b in range(len(after)):
        forwards, backwards = adaptation.cost.of(b)
        first, second = after[b].topk(2).values.exp().tolist()
        yield {
            "prediction_before": int(before[b].argmax()),
            "prediction": int(after[b].argmax()),
            "confidence_before": float(before[b].max().exp()),
            "confidence": first,
            "margin": first - second,
            "top5_before": before[b].topk(top).indices.tolist(),
            "top5": after[b].topk(top).indices.tolist(),
            "entropy_before": float(entropy_before[b]),
            "entropy": float(entropy_after[b]),
            "forwards": forwards,
            "backwards": backwards,
            **{name: values[b] for name, values in columns.items()},
        }


def _columns(adaptation: Adaptation) -> Mapping[str, Sequence[Any]]:
    """What only some methods have to say: column -> one value per image.

    Raises:
        UserError: the records have no such column.
    """
    columns = adaptation.trace.columns() if adaptation.trace else {}
    if unknown := sorted(columns.keys() - {field.name for field in fields(Record)}):
        raise UserError(f"The records have no column {unknown[0]!r}; leave it out of the method's trace.")
    return columns
