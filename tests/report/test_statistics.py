from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from grpo_tta.report import statistics
from grpo_tta.report.summary import paired, paired_difference, summarize


def test_wilson_interval_by_hand() -> None:
    low, high = statistics.accuracy_interval(np.array([True] * 8 + [False] * 2))
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert statistics.accuracy_interval(np.array([True] * 10))[0] < 1
    with pytest.raises(ValueError, match="no images"):
        statistics.accuracy_interval(np.array([], bool))


def test_mcnemar_by_hand() -> None:
    a = np.array([1, 1, 1, 1, 1, 0, 1], bool)
    b = np.array([0, 0, 0, 0, 1, 0, 1], bool)
    assert statistics.compare(a, b) == statistics.Paired(4, 0, 0.125)
    assert statistics.compare(a, a).p_value == 1.0


def test_an_image_counts_once_however_many_seeds_saw_it() -> None:
    difference = np.array([1, 1, 1, -1, 0, -1, -1])
    images = np.array(["i", "i", "j", "j", "k", "k", "l"])  # won, even, lost, lost
    assert statistics.compare_by_cluster(difference, images) == statistics.Paired(1, 2, 1.0)
    assert statistics.compare_by_cluster(np.ones(4), np.arange(4)) == statistics.Paired(4, 0, 0.125)


def test_reliability_by_hand() -> None:
    low, high = statistics.reliability(np.array([0.2, 0.4, 0.5, 1.0]), np.array([False, True, True, True]), bins=2)
    assert (low.low, low.high, low.count, low.confidence, low.accuracy) == pytest.approx((0, 0.5, 2, 0.3, 0.5))
    assert (high.low, high.high, high.count, high.confidence, high.accuracy) == pytest.approx((0.5, 1, 2, 0.75, 1))
    assert np.isnan(statistics.reliability(np.array([0.9]), np.array([True]), bins=2)[0].accuracy)


def test_calibration_error_by_hand() -> None:
    # bin of 0.9: accuracy 0.5, gap 0.4, two of three; bin of 0.3: accuracy 0, gap 0.3, one of three
    found = statistics.calibration_error(np.array([0.9, 0.9, 0.3]), np.array([True, False, False]))
    assert found == pytest.approx(2 / 3 * 0.4 + 1 / 3 * 0.3)


def test_prediction_entropy_by_hand() -> None:
    assert statistics.prediction_entropy(np.array([0, 1, 2, 3]), 4) == pytest.approx(1.0)
    assert statistics.prediction_entropy(np.array([2, 2]), 4) == 0.0


def test_clusters_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    images = rng.random(100) < 0.5
    thrice = np.repeat(images.astype(float), 3)
    _, low, high = statistics.mean_interval([thrice], [np.repeat(np.arange(100), 3)])
    _, low_once, high_once = statistics.mean_interval([images.astype(float)], [np.arange(100)])
    assert high - low == pytest.approx(high_once - low_once, rel=0.1)
    assert statistics.mean_interval([thrice, thrice * 0], [np.arange(300)] * 2)[0] == pytest.approx(images.mean() / 2)


def rows() -> pd.DataFrame:
    def row(task: str, image: str, method: str, right: bool, error: str | None = None) -> dict:
        kind = "source" if task == "s" else "shifted"
        return {"task": task, "kind": kind, "image_id": image, "method": method, "label": 1, "prediction": int(right),
                "error": error, "seed": 0, "forwards": 2.0, "protocol": "episodic", "reward": "none"}  # fmt: skip

    return pd.DataFrame(
        [row("s", "i", "a", True), row("s", "i", "b", False), row("t", "i", "a", True), row("t", "i", "b", False),
         row("t", "j", "a", True), row("t", "j", "b", True), row("t", "k", "a", True, "boom"), row("t", "k", "b", False)]
    )  # fmt: skip


def test_summary_shape_and_numbers() -> None:
    found = summarize(rows(), {"a": {"ms": 1.5}, "b": {"ms": 2.5}})
    assert [(t["name"], t["kind"], t["n"]) for t in found["tasks"]] == [("s", "source", 1), ("t", "shifted", 3)]
    a = found["tasks"][1]["methods"]["a"]
    assert a["accuracy"] == pytest.approx(2 / 3)  # the row with an error is wrong
    assert (a["errors"], a["forwards"], a["ms"]) == (1, 2.0, 1.5)
    assert a["ci95"][0] < 2 / 3 < a["ci95"][1]
    assert found["methods"]["b"] == {"protocol": "episodic", "reward": "none"}
    assert found["shifted_mean"]["a"]["accuracy"] == pytest.approx(2 / 3)


def test_paired_difference_uses_the_shifted_tasks_alone() -> None:
    assert paired_difference(rows(), "a", "b")["difference"] == pytest.approx(1 / 3)


def test_three_seeds_of_the_same_answers_say_no_more_than_one() -> None:
    """Paired differences are drawn by image, all its seeds together: the same outcome thrice is the same interval."""
    rng = np.random.default_rng(1)
    right = {(task, image, method): bool(rng.random() < 0.6) for task in "tu" for image in range(30) for method in "ab"}

    def run(seeds: int) -> pd.DataFrame:
        return pd.DataFrame(
            [
                {"task": t, "kind": "shifted", "image_id": str(i), "method": m, "label": 1, "prediction": int(r), "error": None,
                 "seed": seed}
                for seed in range(seeds)
                for (t, i, m), r in right.items()
            ]
        )  # fmt: skip

    once, thrice = paired_difference(run(1), "a", "b"), paired_difference(run(3), "a", "b")
    assert thrice["difference"] == pytest.approx(once["difference"])
    assert thrice["ci95"] == pytest.approx(once["ci95"])
    assert once["ci95"][1] - once["ci95"][0] > 0.1


def test_pairs_are_the_images_and_seeds_that_both_have() -> None:
    """b lacks image k and the second seed: what a did there does not count."""
    frame = rows()[2:]
    more = frame[frame["method"] == "a"].assign(seed=1, prediction=0)
    some = pd.concat([frame[(frame["image_id"] != "k") | (frame["method"] == "a")], more])
    found = paired(some, "a", "b")
    assert sorted(zip(found["image_id"], found["seed"], found["difference"], strict=True)) == [("i", 0, 1.0), ("j", 0, 0.0)]


def test_one_image_under_many_corruptions_is_one_image() -> None:
    """Fifteen tasks of the same images and outcomes say what one says; of other images they say more."""
    values = np.random.default_rng(0).integers(-1, 2, 60).astype(float)
    one = statistics.mean_interval([values], [np.arange(60)])
    assert statistics.mean_interval([values] * 15, [np.arange(60)] * 15) == pytest.approx(one)
    _, low, high = statistics.mean_interval([values] * 15, [np.arange(60) + 60 * n for n in range(15)])
    assert high - low < 0.4 * (one[2] - one[1])


def test_all_right_under_three_seeds_is_not_certain() -> None:
    once = pd.DataFrame(
        {
            "task": "a", "kind": "shifted", "image_id": [f"i{n}" for n in range(20)], "method": "m", "protocol": "episodic",
            "reward": "none", "prediction": 0, "label": 0, "error": None, "forwards": 1.0,
        }
    )  # fmt: skip
    thrice = pd.concat([once.assign(seed=seed) for seed in range(3)], ignore_index=True)
    found = [summarize(some, {})["tasks"][0]["methods"]["m"]["ci95"] for some in (once.assign(seed=0), thrice)]
    assert found[0] == pytest.approx([0.8389, 1], abs=1e-4)
    assert found[1] == found[0]
    assert summarize(thrice.assign(prediction=1), {})["tasks"][0]["methods"]["m"]["ci95"] == pytest.approx(
        [0, 0.1611], abs=1e-4
    )
