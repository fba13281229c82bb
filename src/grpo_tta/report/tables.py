"""What a report says, as data frames: pure functions of records, in which a row with an error counts as wrong.

Frames with one row per method and task keep the streams, marked by their kind; whatever is averaged here leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
import pandas as pd

from grpo_tta.data.tasks import SHIFTED_MEAN
from grpo_tta.errors import UserError
from grpo_tta.report.statistics import calibration_error, compare_by_cluster, prediction_entropy
from grpo_tta.report.summary import is_correct, mean_difference, paired

KINDS = ("source", "shifted", "cross-domain", "real", "stream")
ZERO_SHOT = "zero-shot"
CONTROLS = (ZERO_SHOT, "view-mean", "reward-argmax", "online-no-step")
"""Methods without an update: whoever updates a model has to beat them on every task, or say where it does not."""
NOT_BASELINES = (ZERO_SHOT, "reward-argmax", "online-no-step")
"""What is no method of its own: the frozen model, and our rewards without our update."""

Cost = Mapping[str, Mapping[str, float]]


@final
@dataclass(frozen=True)
class MethodResult:
    """One method's figures; NaN where there is none.

    Attributes:
        accuracy: task -> percent.
        shifted_mean: in percent, with its interval and the number of tasks that it covers.
        images: distinct images outside the streams.
        teacher_name: of the model that scores, where the reward is a teacher's.
        forwards, backwards, ms: per image.
        peak_memory_mb: highest of the process.
        errors: rows with an error.
    """

    name: str
    protocol: str
    reward: str
    accuracy: dict[str, float]
    shifted_mean: float
    shifted_low: float
    shifted_high: float
    shifted_tasks: int
    images: int
    forwards: float
    backwards: float
    ms: float
    peak_memory_mb: float
    errors: int
    teacher_name: str | None = None

    @property
    def teacher(self) -> bool:
        return self.reward == "teacher"

    @property
    def scored_by(self) -> str:
        """Whose reward it is, the teacher by name."""
        return f"teacher {self.teacher_name}" if self.teacher_name else self.reward


@final
@dataclass(frozen=True)
class Results:
    """Every method's figures, and the kind of every task, both in the order of the run."""

    methods: dict[str, MethodResult]
    kinds: dict[str, str]

    def tasks(self, *kinds: str) -> list[str]:
        return [task for task, kind in self.kinds.items() if kind in kinds]

    def is_complete(self, method: str) -> bool:
        """Whether its shifted mean covers every shifted task; a mean over fewer cannot be compared with the others."""
        return self.methods[method].shifted_tasks == len(self.tasks(*SHIFTED_MEAN)) > 0

    def is_full(self, method: str) -> bool:
        """Whether it saw as many images as any other; accuracies over fewer are compared by pairs alone."""
        return self.methods[method].images == max(m.images for m in self.methods.values())

    def comparable(self, method: str) -> list[str]:
        """Methods of the same protocol that likewise have, or have not, a teacher, and a complete shifted mean."""
        mine = self.methods[method]
        same = [m for m in self.methods.values() if (m.protocol, m.teacher) == (mine.protocol, mine.teacher)]
        return [m.name for m in same if self.is_complete(m.name)]

    def best_baseline(self, reference: str, differences: Mapping[str, float]) -> str | None:
        """The method of another author, of the same kind as the reference, that comes closest to it or beats it the most.

        Args:
            differences: other method -> points of the reference over it, on the images that both have seen.
        """
        baselines = [m for m in self.comparable(reference) if m in differences and m not in NOT_BASELINES and not is_ours(m)]
        return min(baselines, key=lambda m: differences[m], default=None)

    def rank(self, reference: str, differences: Mapping[str, float]) -> tuple[int, int] | None:
        """Its place among the comparable methods, each compared with it on the images that both have seen.

        Returns:
            (place, how many others share it: differences that are printed as zero). None where it has no complete shifted
            mean itself.
        """
        comparable = self.comparable(reference)
        if reference not in comparable:
            return None
        others = [round(differences[m], 1) for m in comparable if m in differences]
        return 1 + sum(d < 0 for d in others), sum(d == 0 for d in others)


def is_ours(method: str) -> bool:
    return method.startswith("grpo-tta")


def check_settings(rows: pd.DataFrame) -> None:
    """
    Raises:
        UserError: rows of one method were made under different settings.
    """
    for method, hashes in rows.groupby("method", sort=False)["settings_hash"].unique().items():
        if len(hashes) > 1:
            raise UserError(
                f"{method} was run with different settings (hashes {' and '.join(sorted(hashes)[:2])}); report those runs "
                "apart, or give the variants names of their own."
            )


def in_order(rows: pd.DataFrame, tasks: Sequence[str], methods: Sequence[str]) -> pd.DataFrame:
    """Rows by kind, then by task, method, seed and image; tasks and methods stand as they were run."""
    kinds = rows.groupby("task")["kind"].first()
    known = [*dict.fromkeys([*tasks, *rows["task"].unique()])]
    task_place = {t: i for i, t in enumerate(sorted(kinds.index, key=lambda t: (KINDS.index(kinds[t]), known.index(t))))}
    method_place = {m: i for i, m in enumerate(dict.fromkeys([*methods, *rows["method"].unique()]))}
    keys = rows.assign(_task=rows["task"].map(task_place), _method=rows["method"].map(method_place))
    order = keys.sort_values(["_task", "_method", "seed", "order", "image_id"]).index
    return rows.loc[order].reset_index(drop=True)


def results(
    rows: pd.DataFrame, summary: Mapping[str, Any], cost: Cost, teachers: Mapping[str, str | None] | None = None
) -> Results:
    """The figures of `summary.summarize`, with the costs and the names of the teachers (by method) beside."""
    methods = {}
    for name, declared in summary["methods"].items():
        mean = summary["shifted_mean"].get(name, {"accuracy": np.nan, "ci95": (np.nan, np.nan), "tasks": 0})
        mine = rows[rows["method"] == name]
        methods[name] = MethodResult(
            name=name,
            protocol=declared["protocol"],
            reward=declared["reward"],
            accuracy={t["name"]: 100 * t["methods"][name]["accuracy"] for t in summary["tasks"] if name in t["methods"]},
            shifted_mean=100 * mean["accuracy"],
            shifted_low=100 * mean["ci95"][0],
            shifted_high=100 * mean["ci95"][1],
            shifted_tasks=mean["tasks"],
            images=len(mine[mine["kind"] != "stream"].drop_duplicates(["task", "image_id"])),
            forwards=float(mine["forwards"].mean()),
            backwards=float(mine["backwards"].mean()),
            ms=cost.get(name, {}).get("ms", np.nan),
            peak_memory_mb=cost.get(name, {}).get("peak_memory_mb", np.nan),
            errors=int(mine["error"].notna().sum()),
            teacher_name=(teachers or {}).get(name),
        )
    return Results(methods, {task["name"]: task["kind"] for task in summary["tasks"]})


def flat(found: Results) -> pd.DataFrame:
    """The results as one frame, one row per method and one column per task, the way `table.csv` holds them."""
    first = pd.DataFrame([{"method": m.name, "protocol": m.protocol, "reward": m.reward} for m in found.methods.values()])
    accuracy = pd.DataFrame([m.accuracy for m in found.methods.values()], columns=list(found.kinds))
    rest = pd.DataFrame([asdict(m) for m in found.methods.values()]).drop(columns=["name", "protocol", "reward", "accuracy"])
    return pd.concat([first, accuracy, rest], axis=1)


def comparisons(rows: pd.DataFrame, reference: str) -> pd.DataFrame:
    """The reference against every other method on the images of the shifted tasks that both have seen.

    `difference` is that of the mean over tasks, in points, with its 95 % interval clustered by image over seeds. An image
    counts as won where the reference is right under more seeds (or corruptions, where tasks share images); `p_value` is
    the exact McNemar test of wins and losses.
    """
    shifted = rows[rows["kind"].isin(SHIFTED_MEAN)]
    first = shifted.groupby("method", sort=False).first()
    out = []
    for other in first.index:
        pairs = paired(shifted, reference, str(other))
        if other == reference or pairs.empty:
            continue
        about = first.loc[other]
        out.append(
            {"method": reference, "other": other, "protocol": about["protocol"], "reward": about["reward"]}
            | {"tasks": pairs["task"].nunique()}
            | _contest(pairs)
        )
    columns = ["method", "other", "protocol", "reward", "tasks", "images", "wins", "losses", "p_value", "difference"]
    return pd.DataFrame(out, columns=[*columns, "low", "high"])


def _contest(pairs: pd.DataFrame) -> dict[str, Any]:
    """Counts, test and difference in points of rows of `summary.paired`."""
    clusters = pairs.groupby("image_id", sort=False).ngroup().to_numpy()  # the same image in several tasks is one
    test = compare_by_cluster(pairs["difference"].to_numpy(), clusters)
    mean = mean_difference(pairs)
    low, high = mean["ci95"]
    return {
        "images": int(clusters.max()) + 1,
        "wins": test.wins,
        "losses": test.losses,
        "p_value": test.p_value,
        "difference": 100 * mean["difference"],
        "low": 100 * low,
        "high": 100 * high,
    }


def losses(rows: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Tasks, streams included, on which the reference does not beat zero-shot or a control on the same images."""
    out = []
    for task, of_task in rows.groupby("task", sort=False):
        for control in CONTROLS:
            pairs = paired(of_task, reference, control)
            if control == reference or pairs.empty or pairs["difference"].sum() > 0:
                continue
            accuracies = {"accuracy": 100 * pairs["a"].mean(), "control_accuracy": 100 * pairs["b"].mean()}
            about = {"task": task, "kind": of_task["kind"].iloc[0], "control": control}
            out.append(about | accuracies | _contest(pairs))
    columns = ["task", "kind", "control", "images", "accuracy", "control_accuracy", "difference", "low", "high"]
    frame = pd.DataFrame(out, columns=[*columns, "wins", "losses", "p_value"])
    return frame.sort_values("difference", kind="stable", ignore_index=True)


def _per_method_and_task(rows: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    for (task, method), some in rows.groupby(["task", "method"], sort=False):
        yield {"method": method, "task": task, "kind": some["kind"].iloc[0]}, some


def calibration(rows: pd.DataFrame) -> pd.DataFrame:
    """Expected calibration error in percent, before and after; rows with an error have no confidence and are left out."""
    out = []
    for about, some in _per_method_and_task(rows):
        fine = some[some["error"].isna()]
        label = fine["label"].to_numpy()
        before, after = (
            100 * calibration_error(fine[confidence].to_numpy(), fine[prediction].to_numpy() == label) if len(fine) else np.nan
            for confidence, prediction in (("confidence_before", "prediction_before"), ("confidence", "prediction"))
        )
        out.append(about | {"rows": len(fine), "ece_before": before, "ece": after})
    return pd.DataFrame(out)


def flips(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows that a method turned from wrong to right and from right to wrong, against zero-shot on the same rows.

    Zero-shot is the method of that name where it was run, so that a row whose method failed counts as turned to wrong if
    the frozen model had it right; otherwise it is what the method's own record says of the frozen model.
    """
    keys = ["task", "image_id", "seed"]
    frozen = rows[rows["method"] == ZERO_SHOT]
    known = pd.Series(is_correct(frozen), index=pd.MultiIndex.from_frame(frozen[keys]))
    out = []
    for about, some in _per_method_and_task(rows):
        own = (some["prediction_before"] == some["label"]).to_numpy()
        joined = known.reindex(pd.MultiIndex.from_frame(some[keys])).to_numpy(dtype=object)
        before = np.where(pd.isna(joined), own, joined).astype(bool)
        after = is_correct(some)
        counts = {"wrong_to_right": int((after & ~before).sum()), "right_to_wrong": int((before & ~after).sum())}
        out.append(about | {"rows": len(some)} | counts)
    return pd.DataFrame(out)


def collapse(rows: pd.DataFrame, classes: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Entropy of the histogram of predictions over log C, before and after, beside that of the labels: 0 is collapse.

    Args:
        classes: task -> class names.
    """
    out = []
    for about, some in _per_method_and_task(rows):
        fine = some[some["error"].isna()]
        columns = {"labels": "label", "entropy_before": "prediction_before", "entropy": "prediction"}
        C = len(classes[about["task"]])
        values = {k: prediction_entropy(fine[c].to_numpy(), C) if len(fine) else np.nan for k, c in columns.items()}
        out.append(about | {"classes": C} | values)
    return pd.DataFrame(out)


def per_class(rows: pd.DataFrame, classes: Mapping[str, Sequence[str]], reference: str) -> pd.DataFrame:
    """The reference class by class, beside the frozen model on the same rows, in the order of the labels.

    `taken_for` is the class that the reference gives most often to images of this class that it gets wrong, `times` how often.

    Args:
        classes: task -> class names.
    """
    mine = rows[rows["method"] == reference]
    mine = mine.assign(right=100.0 * is_correct(mine), right_before=100.0 * (mine["prediction_before"] == mine["label"]))
    out = []
    for (task, _), some in mine.groupby(["task", "label"], sort=False):
        wrong = some[(some["right"] == 0) & some["error"].isna()]["prediction"].value_counts(sort=False).sort_index()
        times = int(wrong.max()) if len(wrong) else 0
        worst = classes[str(task)][int(wrong.index[int(wrong.argmax())])] if times else ""
        before, after = float(some["right_before"].mean()), float(some["right"].mean())
        out.append(
            {
                "task": task,
                "class": classes[str(task)][int(some["label"].iloc[0])],
                "rows": len(some),
                "accuracy_before": before,
            }
            | {"accuracy": after, "difference": after - before}
            | {"taken_for": worst, "times": times}
        )
    columns = ["task", "class", "rows", "accuracy_before", "accuracy", "difference", "taken_for", "times"]
    return pd.DataFrame(out, columns=columns)


def errors(rows: pd.DataFrame) -> pd.DataFrame:
    """How often each sentence of an error was recorded, per method and task."""
    failed = rows[rows["error"].notna()]
    return failed.groupby(["method", "task", "kind", "error"], sort=False).size().rename("rows").reset_index()


def over_shifted(frame: pd.DataFrame, how: Mapping[str, str]) -> pd.DataFrame:
    """Per-task rows to one row per method, over the shifted tasks alone: column -> "mean" or "sum"."""
    return frame[frame["kind"].isin(SHIFTED_MEAN)].groupby("method", sort=False).agg(dict(how))
