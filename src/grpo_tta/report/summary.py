"""From records to `summary.json`, the shape that every summary of the project keeps. A pure function of the rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from grpo_tta.data.tasks import SHIFTED_MEAN
from grpo_tta.report.statistics import accuracy_interval, mean_interval


def summarize(rows: pd.DataFrame, cost: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Accuracy with interval, cost in forward passes and milliseconds, per task and method.

    A row with an error counts as wrong. Several seeds are averaged; the interval of a task with several seeds is the
    bootstrap clustered by image.

    Args:
        rows: of `records.read_records`.
        cost: method -> {"ms": ..., "peak_memory_mb": ...}, timed apart.
    """
    tasks = []
    for name, of_task in rows.groupby("task", sort=False):
        methods = {}
        for method, of_method in of_task.groupby("method", sort=False):
            correct = is_correct(of_method)
            images = of_method["image_id"].to_numpy()
            if of_method["seed"].nunique() == 1:
                low, high = accuracy_interval(correct)
            elif correct.all() or not correct.any():  # where a bootstrap would say that nothing is uncertain
                low, high = accuracy_interval(np.full(len(np.unique(images)), correct.all()))
            else:
                _, low, high = mean_interval([correct], [images])
            methods[str(method)] = {
                "accuracy": float(correct.mean()),
                "ci95": [low, high],
                "forwards": float(of_method["forwards"].mean()),
                "ms": cost.get(str(method), {}).get("ms"),
                "errors": int(of_method["error"].notna().sum()),
            }
        n = int(of_task["image_id"].nunique())
        tasks.append({"name": str(name), "kind": str(of_task["kind"].iloc[0]), "n": n, "methods": methods})
    first = rows.groupby("method", sort=False).first()
    return {
        "tasks": tasks,
        "methods": {str(method): {"protocol": row["protocol"], "reward": row["reward"]} for method, row in first.iterrows()},
        "shifted_mean": {str(m): shifted_mean(rows, str(m)) for m in first.index if has_shifted(rows[rows["method"] == m])},
    }


def is_correct(rows: pd.DataFrame) -> np.ndarray:
    """`[N]` bool; a row with an error is wrong."""
    return ((rows["prediction"] == rows["label"]) & rows["error"].isna()).to_numpy()


def has_shifted(rows: pd.DataFrame) -> bool:
    return bool(rows["kind"].isin(SHIFTED_MEAN).any())


def shifted_mean(rows: pd.DataFrame, method: str) -> dict[str, Any]:
    """Mean accuracy over the tasks of kind shifted, cross-domain and real, with its bootstrap interval."""
    some = rows[(rows["method"] == method) & rows["kind"].isin(SHIFTED_MEAN)]
    groups = [group for _, group in some.groupby("task", sort=False)]
    mean, low, high = mean_interval([is_correct(g).astype(float) for g in groups], [g["image_id"].to_numpy() for g in groups])
    return {"accuracy": mean, "ci95": [low, high], "tasks": len(groups)}


def paired(rows: pd.DataFrame, method: str, other: str) -> pd.DataFrame:
    """The task, image and seed of every row that both methods have, with the correctness of `method` (a) and `other` (b)."""
    keys = ["task", "kind", "image_id", "seed"]

    def correctness(name: str) -> pd.DataFrame:
        some = rows[rows["method"] == name]
        return some[keys].assign(correct=is_correct(some).astype(float))

    a, b = correctness(method), correctness(other)
    both = a.rename(columns={"correct": "a"}).merge(b.rename(columns={"correct": "b"}), on=keys, how="inner")
    return both.assign(difference=both["a"] - both["b"])


def mean_difference(pairs: pd.DataFrame) -> dict[str, Any]:
    """Mean over the tasks of `paired` of the difference in accuracy, with its interval clustered by image.

    Raises:
        ValueError: no pairs.
    """
    if pairs.empty:
        raise ValueError("The two methods share no image.")
    groups = [group for _, group in pairs.groupby("task", sort=False)]
    mean, low, high = mean_interval([g["difference"].to_numpy() for g in groups], [g["image_id"].to_numpy() for g in groups])
    return {"difference": mean, "ci95": [low, high]}


def paired_difference(rows: pd.DataFrame, method: str, other: str) -> dict[str, Any]:
    """Mean over the shifted tasks of accuracy(method) - accuracy(other) on the same images and seeds, with its interval."""
    return mean_difference(paired(rows[rows["kind"].isin(SHIFTED_MEAN)], method, other))
