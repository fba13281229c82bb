"""Rows of `predict`: the same columns from this machine and from a cluster."""

from __future__ import annotations

import heapq
from typing import Any

import pyarrow as pa

from grpo_tta.classifier import Prediction

PREDICTIONS = pa.schema(
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
    ]
)
"""An answer, or an error and nothing else."""


def prediction_row(answer: Prediction | str, top: int = 5) -> dict[str, Any]:
    """What an answer, or the sentence of an error, says by the names of `PREDICTIONS`, without the image's id.

    Args:
        top: how many of the most probable labels the row holds.
    """
    if isinstance(answer, str):
        return {"error": answer}
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
