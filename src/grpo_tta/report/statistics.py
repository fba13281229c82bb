"""Intervals and paired tests on records: pure functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from scipy import stats

DRAWS = 4000


def accuracy_interval(correct: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Wilson interval of one task's accuracy: `[N]` bool -> (low, high). Sane at 0 and 1, where a bootstrap is not.

    Raises:
        ValueError: no rows.
    """
    if len(correct) == 0:
        raise ValueError("An accuracy of no images does not exist.")
    interval = stats.binomtest(int(np.sum(correct)), len(correct)).proportion_ci(level, "wilson")
    return float(interval.low), float(interval.high)


def mean_interval(
    values: Sequence[np.ndarray], clusters: Sequence[np.ndarray], *, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Mean over tasks of each task's mean, with a percentile bootstrap interval.

    Within each task whole clusters (an image's rows over seeds) are drawn with replacement, so that the same image
    seen under three seeds does not count as three images. Tasks of the same clusters (one image under several
    corruptions) are drawn alike, so that it does not count as several there either.

    Args:
        values: per task `[N_t]`, for example correctness, or its difference between two methods.
        clusters: per task `[N_t]`, the image each value belongs to.

    Returns:
        (mean, low, high).
    """
    rng = np.random.default_rng(seed)
    point, draws = 0.0, np.zeros(DRAWS)
    alike: dict[tuple[Any, ...], list[tuple[np.ndarray, np.ndarray]]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        names, inverse = np.unique(cluster, return_inverse=True)
        alike.setdefault(tuple(names.tolist()), []).append((value, inverse))
        point += value.mean()
    for clusters_of, tasks in alike.items():
        picked = rng.integers(0, len(clusters_of), (DRAWS, len(clusters_of)))
        for value, inverse in tasks:
            sums, counts = np.bincount(inverse, value), np.bincount(inverse)
            draws += sums[picked].sum(1) / counts[picked].sum(1)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(draws / len(values), [tail, 100 - tail])
    return float(point / len(values)), float(low), float(high)


@final
@dataclass(frozen=True)
class Paired:
    """How method a compares with method b on the same images.

    Attributes:
        wins: images that only a gets right.
        losses: images that only b gets right.
        p_value: exact two-sided McNemar test.
    """

    wins: int
    losses: int
    p_value: float


def compare(a: np.ndarray, b: np.ndarray) -> Paired:
    """Exact McNemar test (binomial on the discordant images): correctness of a and b, `[N]` bool each."""
    wins, losses = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    p = 1.0 if wins + losses == 0 else float(stats.binomtest(wins, wins + losses, 0.5).pvalue)
    return Paired(wins, losses, p)


def compare_by_cluster(difference: np.ndarray, clusters: np.ndarray) -> Paired:
    """Exact McNemar test that counts an image once, however many seeds or corruptions it was seen under.

    A cluster is won when a is right in more of its rows than b, and lost in the opposite case; with one row each this is
    `compare`. Rows of one image are no independent trials, so counting them all would make p too small.

    Args:
        difference: `[N]`, correctness of a minus correctness of b.
        clusters: `[N]`, the image of each row.
    """
    _, inverse = np.unique(clusters, return_inverse=True)
    total = np.bincount(inverse, difference)
    return compare(total > 0.5, total < -0.5)


@final
@dataclass(frozen=True)
class Bin:
    """One bar of a reliability diagram: predictions with a confidence in [low, high).

    Attributes:
        count: number of predictions; `confidence` and `accuracy` are NaN where it is 0.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = 10) -> list[Bin]:
    """Mean confidence and accuracy within equal-width bins of confidence; a confidence of 1 falls into the last bin."""
    which = np.clip((confidence * bins).astype(int), 0, bins - 1)
    out = []
    for b in range(bins):
        inside = which == b
        count = int(inside.sum())
        means = (float(confidence[inside].mean()), float(correct[inside].mean())) if count else (float("nan"),) * 2
        out.append(Bin(b / bins, (b + 1) / bins, count, *means))
    return out


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017): sum_b n_b/N |accuracy_b - confidence_b| over equal-width bins."""
    which = np.clip((confidence * bins).astype(int), 0, bins - 1)
    total = 0.0
    for b in range(bins):
        inside = which == b
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return float(total)


def prediction_entropy(predictions: np.ndarray, classes: int) -> float:
    """Entropy of the histogram of predictions over log C: 1 where all classes are predicted alike, 0 on collapse."""
    share = np.bincount(predictions, minlength=classes) / len(predictions)
    share = share[share > 0]
    return float(-(share * np.log(share)).sum() / np.log(classes))
