"""Rows of `predict`: the same from this machine and from a cluster."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any, final

import pyarrow as pa

from grpo_tta.bench.embeddings import column
from grpo_tta.classifier import Prediction
from grpo_tta.errors import UserError, as_text

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("label", pa.string()),
        ("probability", pa.float64()),
        ("label_before", pa.string()),
        ("probability_before", pa.float64()),
        ("top_labels", pa.list_(pa.string())),
        ("top_probabilities", pa.list_(pa.float64())),
        ("forwards", pa.float64()),
        ("backwards", pa.float64()),
        ("error", pa.string()),
        ("abstained", pa.bool_()),
    ]
)
"""An answer, or an error and nothing else."""
ALL_PROBABILITIES = pa.field("probabilities", pa.list_(pa.float32()))
"""With `--all-probabilities`: one per label, in the order of the labels in `run.json`."""


@final
@dataclass(frozen=True)
class Wanted:
    """What rows hold.

    Attributes:
        top_k: most probable labels.
        every: all labels' probabilities too.
        threshold: below it the label is empty.
    """

    top_k: int = 5
    every: bool = False
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise UserError("--top-k must be at least 1.")
        if not 0 <= self.threshold <= 1:
            raise UserError("--threshold is a probability, from 0 to 1.")

    def schema(self, width: int = 0) -> pa.Schema:
        """The columns of rows in Parquet.

        Args:
            width: D of their embeddings; 0 for rows without them.
        """
        wide = SCHEMA.append(ALL_PROBABILITIES) if self.every else SCHEMA
        return wide.append(column(width)) if width else wide

    def row(self, image_id: str, answer: Prediction | str) -> dict[str, Any]:
        """A row by the names of `SCHEMA`, of an answer or of the sentence of an error."""
        if isinstance(answer, str):
            return {"image_id": as_text(image_id), "error": as_text(answer)}
        row = {"image_id": as_text(image_id), **_numbers(answer, self.top_k)}
        row["abstained"] = answer.probability < self.threshold
        if row["abstained"]:
            row["label"] = ""
        return row | {"probabilities": list(answer.probabilities.values())} if self.every else row

    def describe(self) -> dict[str, Any]:
        """For `run.json`: rows of one folder hold the same."""
        return {"top_k": self.top_k, "all_probabilities": self.every, "threshold": self.threshold}


def _numbers(answer: Prediction, top: int) -> dict[str, Any]:
    most = heapq.nlargest(top, answer.probabilities.items(), key=lambda pair: pair[1])
    return {
        "label": answer.label,
        "probability": answer.probability,
        "label_before": answer.label_before,
        "probability_before": answer.probabilities_before[answer.label_before],
        "top_labels": [label for label, _ in most],
        "top_probabilities": [probability for _, probability in most],
        "forwards": answer.forwards,
        "backwards": answer.backwards,
    }
