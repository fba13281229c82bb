"""One search for all three suites: what `default`, `fast` and the tunable readers of the same views are set to.

    python perf/joint_search.py encode build/search --photos-root DATA --model build/efficientnet-lite0@160
    python perf/joint_search.py search build/search --model build/efficientnet-lite0@160 --csv docs/joint_search.csv

`encode` reads 24 views and four content-free views of images of the tuning splits of nano, photos and imagenet-sample once, and
keeps their features. It goes on where it stopped. `search` tries every setting of a plain grid on what was kept, and writes
every trial.

Each family has the same budget: 30 trials, or all the settings there are. No policy step is taken, since none of those tried
was worth anything in one image's episode. A trial's score is the mean of the three suites' accuracies, each the mean over its
shifted tasks. `fast` must read at most eight views on the mean of every suite, and keep 90 % of the default's gain in the
score: one suite's gain is too uncertain for a limit of its own.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from grpo_tta.backbones.base import load_backbone
from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.baselines.mta import MTASettings, mta_method
from grpo_tta.baselines.view_mean import ViewMeanSettings, view_mean_method
from grpo_tta.baselines.vte import VTESettings, vte_method
from grpo_tta.baselines.zero import ZeroSettings, zero_method
from grpo_tta.baselines.zero_shot import zero_shot_method
from grpo_tta.data.choose import Choice, choose_tasks
from grpo_tta.data.tasks import SHIFTED_MEAN, Task
from grpo_tta.engine.early_exit import Rounds
from grpo_tta.engine.encode import encode_images
from grpo_tta.engine.interface import EncodedViews, ImageBatch, Method
from grpo_tta.engine.policy import Policy
from grpo_tta.images.read import to_rgb
from grpo_tta.method.controls import reward_argmax_method
from grpo_tta.method.prediction import Ensemble
from grpo_tta.method.rewards import Alignment, ContentFree
from grpo_tta.method.settings import DEFAULT, FAST, GRPOSettings
from grpo_tta.method.weighting import ByEntropy

V = DEFAULT.views.views
MODELS = {"nano": "nano-clip", "photos": "photo-clip"}
SUITES = (*MODELS, "imagenet-sample")
MOST_PASSES, LEAST_OF_GAIN = 8.0, 0.9
CHUNK = 8
SHARPNESS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0)
PRIORS = (0.0, 0.025, 0.05, 0.1, 0.2)
SHARES = (0.05, 0.06, 0.08, 0.1, 0.12)


@final
@dataclass(frozen=True)
class Trial:
    """
    Attributes:
        family: of settings that compete with each other.
        setting: what is tried, as the table writes it.
        method: it.
        present: whether the library's named method has this setting today.
    """

    family: str
    setting: str
    method: Method
    present: bool = False


def default_with(sharpness: float, prior: float) -> GRPOSettings:
    """The default with other weights of its views and another prior."""
    if not prior:
        views = replace(DEFAULT.views, content_free=0)
        return replace(DEFAULT, views=views, weighting=ByEntropy(sharpness), reward=Alignment(), predict=Ensemble(prior=0.0))
    return replace(DEFAULT, weighting=ByEntropy(sharpness), reward=Alignment() + prior * ContentFree(), predict=Ensemble(prior))


def fast_with(sharpness: float, share: float) -> GRPOSettings:
    """`fast` with other weights of its views and another early exit."""
    return replace(FAST, weighting=ByEntropy(sharpness), early_exit=Rounds(share, sharpness))


def trials() -> Iterator[Trial]:
    """The grids, the two readings that have no settings first."""
    yield Trial("zero-shot", "", zero_shot_method())
    yield Trial("view-mean", "", view_mean_method(ViewMeanSettings(V, V)))
    for a in SHARPNESS:
        for prior in PRIORS:
            settings = default_with(a, prior)
            yield Trial("grpo-tta", f"sharpness {a:g}, prior {prior:g}", reward_argmax_method(settings), settings == DEFAULT)
    for a in SHARPNESS:
        for share in SHARES:
            settings = fast_with(a, share)
            yield Trial("grpo-tta-fast", f"sharpness {a:g}, share {share:g}", reward_argmax_method(settings), settings == FAST)
    for count in range(1, V + 1):
        yield Trial(
            "zero",
            f"{count} of {V} views",
            zero_method(ZeroSettings(V, (count + 0.5) / V if count < V else 1.0)),
            count == V // 2,
        )
    for count in range(1, V + 1):
        yield Trial("vte", f"{count} of {V} views", vte_method(VTESettings(V, count)), count == 18)
    for entropy in (0.1, 0.2, 0.5, 1.0, 2.0):
        for affinity in (1.0, 4.0, 8.0):
            for near in (0.3, 1.0):
                yield Trial(
                    "mta", f"entropy {entropy:g}, affinity {affinity:g}, neighbours {near:g}",
                    mta_method(MTASettings(V, entropy, affinity, near)), (entropy, affinity, near) == (1.0, 4.0, 1.0),
                )  # fmt: skip


def encode(policy: Policy, task: Task) -> dict[str, Tensor]:
    """Features `[N, V + P, D]` in half precision, and labels `[N]`, of all images of a task."""
    features, labels = [], []
    for start in range(0, len(task.image_ids), CHUNK):
        names = task.image_ids[start : start + CHUNK]
        pairs = [task.load(start + number) for number in range(len(names))]
        images = [to_rgb(image) for image, _ in pairs]
        features.append(encode_images(policy, images, names, DEFAULT.views, 0).encoded.features.half())
        labels += [label for _, label in pairs]
    return {"features": torch.cat(features), "labels": torch.tensor(labels)}


def shifted(suite: str, root: Path | None, limit: int, tasks: Sequence[str] | None) -> list[Task]:
    """The tasks of a suite's shifted mean, of its tuning split."""
    choice = Choice(suite, None if tasks is None else tuple(tasks), None if suite == "nano" else root, "tuning", limit)
    return [task for task in choose_tasks(choice) if task.kind in SHIFTED_MEAN]


def policy_of(backbone: Any, task: Task) -> Policy:
    return Policy(backbone, make_prompts(backbone, task.classes, task.templates, task.ensemble, repeats=task.repeated_names))


def encode_suite(suite: str, model: str, folder: Path, tasks: Sequence[Task]) -> None:
    """Writes a file for each task; one that is there is kept."""
    (folder / suite).mkdir(parents=True, exist_ok=True)
    backbone = load_backbone(model)
    for task in tasks:
        file = folder / suite / f"{task.name}.safetensors"
        if not file.exists():
            found = encode(policy_of(backbone, task), task)
            part = file.with_suffix(".part")
            save_file(found, part, {"ids": "\n".join(task.image_ids)})
            part.rename(file)
            print(suite, task.name, len(found["labels"]), flush=True)


@final
@dataclass(frozen=True)
class Result:
    """What the trials did on the images of one task.

    Attributes:
        photographs: `[N]`, names under which an image is the same in all tasks.
        right: `[trials, N]` in 0 and 1.
        passes: `[trials, N]`.
    """

    photographs: np.ndarray
    right: np.ndarray
    passes: np.ndarray


def photograph(image_id: str) -> str:
    """The part of an image's name that says which photograph it is, under whatever shift."""
    return image_id.rsplit("/", 1)[-1]


def try_all(policy: Policy, file: Path, methods: Sequence[Method]) -> Result:
    with safe_open(file, "pt") as stored:
        features, labels = stored.get_tensor("features").float(), stored.get_tensor("labels")
        ids = tuple(stored.metadata()["ids"].split("\n"))
    encoded = EncodedViews(features, policy.log_probs(features), {}, V)
    none = features.new_empty(len(labels), 0)
    batch = ImageBatch(ids, none, none, encoded, 0)
    right, passes = [], []
    for method in methods:
        answer = method(policy, batch, {})[0]
        right.append((answer.after.argmax(-1) == labels).double().numpy())
        passes.append([answer.cost.of(number)[0] for number in range(len(labels))])
    return Result(np.array([photograph(name) for name in ids]), np.array(right), np.array(passes))


def standard_error(results: Sequence[Result], difference: Sequence[np.ndarray]) -> float:
    """Of the mean over tasks of a difference per image, photographs drawn as clusters."""
    weight = [values / len(values) / len(results) for values in difference]
    names = np.concatenate([result.photographs for result in results])
    _, inverse = np.unique(names, return_inverse=True)
    centred = np.concatenate([values - values.mean() for values in weight])
    return float(np.sqrt((np.bincount(inverse, centred) ** 2).sum()))


def table(found: dict[str, list[Result]], tried: Sequence[Trial]) -> list[dict[str, Any]]:
    """A row per trial: accuracy and passes of each suite, the score, and the difference to the family's present setting."""
    of_suite = {suite: np.array([r.right.mean(1) for r in results]).mean(0) for suite, results in found.items()}
    passes = {suite: np.array([r.passes.mean(1) for r in results]).mean(0) for suite, results in found.items()}
    score = np.mean(list(of_suite.values()), axis=0)
    now = {trial.family: number for number, trial in enumerate(tried) if trial.present}
    zero_shot, default = 0, now["grpo-tta"]
    rows = []
    for number, trial in enumerate(tried):
        row: dict[str, Any] = {"family": trial.family, "setting": trial.setting, "present": "yes" if trial.present else ""}
        for suite in found:
            row[suite] = round(100 * float(of_suite[suite][number]), 2)
        row["mean"] = round(100 * float(score[number]), 2)
        reference = now.get(trial.family, default)
        errors = [
            standard_error(results, [r.right[number] - r.right[reference] for r in results]) for results in found.values()
        ]
        row["minus_present"] = round(100 * float(score[number] - score[reference]), 2)
        row["interval"] = round(196 * float(np.sqrt(np.square(errors).sum())) / len(errors), 2)
        for suite in found:
            row[f"passes_{suite}"] = round(float(passes[suite][number]), 2)
        if trial.family == "grpo-tta-fast":
            share = (score[number] - score[zero_shot]) / (score[default] - score[zero_shot])
            row["share_of_gain"] = round(float(share), 3)
            allowed = share >= LEAST_OF_GAIN and max(passes[suite][number] for suite in found) <= MOST_PASSES
            row["allowed"] = "yes" if allowed else ""
        rows.append(row)
    return rows


def best(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The best trial of each family; of `fast` the best that is allowed, and the best of all where none is."""
    chosen: dict[str, dict[str, Any]] = {}
    for row in rows:
        held = chosen.get(row["family"])
        if held is None or (row.get("allowed", ""), row["mean"]) > (held.get("allowed", ""), held["mean"]):
            chosen[row["family"]] = row
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("encode", "search"))
    parser.add_argument("folder", type=Path, help="what was encoded")
    parser.add_argument("--model", required=True, help="of imagenet-sample")
    parser.add_argument("--photos-root", type=Path)
    parser.add_argument("--suites", default=",".join(SUITES))
    parser.add_argument("--tasks", help="of these names alone")
    parser.add_argument("--limit", type=int, default=12, help="photographs per task; nano has three times as many images")
    parser.add_argument("--csv", type=Path, help="every trial")
    given = parser.parse_args(arguments)
    models = MODELS | {"imagenet-sample": given.model}
    suites, names = given.suites.split(","), given.tasks.split(",") if given.tasks else None
    if given.what == "encode":
        for suite in suites:
            limit = given.limit * (3 if suite == "nano" else 1)
            encode_suite(suite, models[suite], given.folder, shifted(suite, given.photos_root, limit, names))
        return 0
    tried = list(trials())
    found: dict[str, list[Result]] = {}
    for suite in suites:
        backbone = load_backbone(models[suite])
        by_name = {task.name: task for task in shifted(suite, given.photos_root, 1, names)}
        files = [given.folder / suite / f"{name}.safetensors" for name in by_name]
        with torch.no_grad():
            found[suite] = [
                try_all(policy_of(backbone, by_name[file.stem]), file, [trial.method for trial in tried])
                for file in files if file.exists()
            ]  # fmt: skip
    rows = table(found, tried)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if given.csv:
        with given.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    for row in [row for row in rows if row["present"]] + list(best(rows).values()):
        print({key: value for key, value in row.items() if value != ""})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
