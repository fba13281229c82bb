"""Forms of GRPO-TTA along a stream, one beside the other: accuracy, its second half, the gate, KL and clipped ratios.

    python perf/streams.py --tasks nano-fog-5-iid,nano-clean-few --limit 512 --json streams.json         # drawings
    python perf/streams.py --tasks cifar-fog-5-iid --photos-root DATA --model photo-clip --limit 512     # photographs

Streams are those of `bench --suite streams`, by default of the tuning split: this is where the settings were chosen. Every form
sees the same views in the same order. Labels serve to count alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from grpo_tta.backbones.base import load_backbone
from grpo_tta.bench.records import write_json
from grpo_tta.bench.runner import task_policy
from grpo_tta.data.streams import stream_tasks
from grpo_tta.data.tasks import Task
from grpo_tta.engine.encode import encode_for
from grpo_tta.engine.interface import ImageBatch, Method, State
from grpo_tta.engine.optim import Adam
from grpo_tta.engine.parameters import NormAffine
from grpo_tta.engine.policy import Policy
from grpo_tta.method.objective import Target, ZScore
from grpo_tta.method.online import stream_method
from grpo_tta.method.online_gate import BiasGate
from grpo_tta.method.online_prior import counts_of, stream_prior
from grpo_tta.method.online_settings import NO_STEP, ONLINE, StreamSettings
from grpo_tta.method.online_shift import restarts_of
from grpo_tta.method.prediction import StreamEnsemble
from grpo_tta.method.rewards import Alignment
from grpo_tta.method.settings import Steps

Json = dict[str, Any]


def _with(**changes: Any) -> StreamSettings:
    return replace(ONLINE, grpo=replace(ONLINE.grpo, **changes))


def _no_prior(settings: StreamSettings) -> StreamSettings:
    return replace(settings, gate=None, grpo=replace(settings.grpo, reward=Alignment(), predict=StreamEnsemble(prior=0.0)))


def _views(views: int) -> StreamSettings:
    return _with(views=replace(ONLINE.grpo.views, views=views))


def _rate(rate: float, **changes: Any) -> Steps:
    return Steps(1, Adam(rate, max_norm=1.0), **changes)


FORMS: dict[str, StreamSettings] = {
    "online": ONLINE,
    "no step": NO_STEP,
    "no step, no prior": _no_prior(NO_STEP),
    "no step, no gate": replace(NO_STEP, gate=None),
    "no prior": _no_prior(ONLINE),
    "no gate": replace(ONLINE, gate=None),
    "frozen rewards": replace(ONLINE, on_policy=False, answer_after=True),
    "last two blocks": _with(tune=NormAffine(last_blocks=2)),
    "rate 3e-4": _with(steps=_rate(3e-4)),
    "rate 2e-3": _with(steps=_rate(2e-3)),
    "two steps": _with(steps=Steps(2, Adam(1e-3, max_norm=1.0))),
    "two steps, no clip": _with(steps=Steps(2, Adam(1e-3, max_norm=1.0), clip=1e6)),
    "KL 0.1": _with(steps=_rate(1e-3, kl=0.1)),
    "z-scores": _with(advantage=ZScore()),
    "temperature 1": _with(advantage=Target(1.0)),
    "minibatches of 8": replace(ONLINE, update_size=8),
    "minibatches of 32": replace(ONLINE, update_size=32),
    "no anchor": replace(ONLINE, anchor=0.0),
    "no bound on the drift": replace(ONLINE, max_kl=None),
    "no bound on unsureness": replace(ONLINE, max_rise=None),
    "no fresh start": replace(ONLINE, alarm=None),
    "bias alone": replace(ONLINE, gate=BiasGate(truth=0.0)),
    "steps of any KL": replace(ONLINE, step_kl=None),
    "steps of 2e-4": replace(ONLINE, step_kl=2e-4),
    "steps of 1e-3": replace(ONLINE, step_kl=1e-3),
    "rate 3e-3, steps of 5e-4": _with(steps=_rate(3e-3)),
    "one view with a gradient": replace(ONLINE, gradient_views=1),
    "1 view": _views(1),
    "2 views": _views(2),
    "4 views": _views(4),
    "8 views": _views(8),
    "prior in the reward alone": _with(predict=StreamEnsemble(prior=0.0)),
    "prior in the answer alone": _with(reward=Alignment()),
    "answer after": replace(ONLINE, answer_after=True),
}


def forms(names: Sequence[str]) -> dict[str, Method]:
    return {name: stream_method(FORMS[name], name) for name in names}


def run(task: Task, policy: Policy, methods: Mapping[str, Method], seed: int = 0) -> Json:
    """One stream by all forms: name of the form -> its numbers."""
    states: dict[str, State] = {name: {} for name in methods}
    right: dict[str, list[bool]] = {name: [] for name in ("zero-shot", *methods)}
    watched: dict[str, dict[str, list[float]]] = {name: {"kl": [], "clipped": []} for name in methods}
    for begin in range(0, len(task.image_ids), 32):  # a multiple of all minibatches
        numbers = range(begin, min(begin + 32, len(task.image_ids)))
        loaded = [task.load(number) for number in numbers]
        labels = torch.tensor([label for _, label in loaded])
        batch = _encoded(policy, task, numbers, [image for image, _ in loaded], list(methods.values()), seed)
        for name, method in methods.items():
            adaptation, states[name] = method(policy, batch, states[name])
            right[name] += (adaptation.after.argmax(-1).cpu() == labels).tolist()
            columns = adaptation.trace.columns() if adaptation.trace else {}
            for key, values in watched[name].items():
                values += columns.get(key, [])
        right["zero-shot"] += (batch.encoded.log_probs[:, 0].argmax(-1).cpu() == labels).tolist()
    found: Json = {name: _numbers(values) for name, values in right.items()}
    for name, method in methods.items():
        weight = stream_prior(counts_of(states[name], policy, policy.backbone.device), method.settings)[1]
        found[name] |= {"gate": float(weight), "restarts": restarts_of(states[name])}
        found[name] |= {key: _mean(values) for key, values in watched[name].items() if values}
    return found


def _encoded(
    policy: Policy, task: Task, numbers: Sequence[int], images: Sequence[Any], methods: Sequence[Method], seed: int
) -> ImageBatch:
    names = [task.image_ids[number] for number in numbers]
    return encode_for(methods, policy, images, names, ONLINE.grpo.views, seed)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _numbers(right: Sequence[bool]) -> Json:
    half = len(right) // 2
    return {"images": len(right), "accuracy": 100 * _mean(right), "second_half": 100 * _mean(right[half:])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", required=True)
    parser.add_argument("--forms", default="online;no step;no step, no prior", help="separated by semicolons, or all")
    parser.add_argument("--photos-root", type=Path)
    parser.add_argument("--model", default="nano-clip")
    parser.add_argument("--split", default="tuning")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = list(FORMS) if options.forms == "all" else options.forms.split(";")
    backbone, methods, found = load_backbone(options.model), forms(names), {}
    for task in stream_tasks(options.photos_root, options.tasks.split(","), options.split, options.limit):
        found[task.name] = run(task, task_policy(backbone, task), methods)
        for name, numbers in found[task.name].items():
            shown = " ".join(f"{key} {value:.4g}" for key, value in numbers.items())
            print(f"{task.name:32} {name:26} {shown}", flush=True)
        if options.json is not None:
            write_json(options.json, {"split": options.split, "model": options.model, "streams": found})


if __name__ == "__main__":
    main()
