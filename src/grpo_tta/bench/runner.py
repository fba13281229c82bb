"""The runner: streams tasks through methods and writes one row per image and method, so that a killed run resumes.

Views and the frozen pass are made once an image and lent to every method. Labels are joined here and nowhere else.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from grpo_tta.backbones.base import Backbone
from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.bench.records import Record, part_path, short_hash, write_json, write_part
from grpo_tta.bench.timing import measure, peak_memory_mb
from grpo_tta.data.tasks import Task, random_key, sample
from grpo_tta.engine.batches import make_batch
from grpo_tta.engine.interface import ImageBatch, Method, State, concatenate, look, observe
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError, sentence
from grpo_tta.images.read import to_rgb
from grpo_tta.images.views import ViewSettings
from grpo_tta.method import objective
from grpo_tta.method.grpo import Adaptation

Progress = Callable[[str, int], None]


@final
@dataclass(frozen=True)
class RunSettings:
    """
    Attributes:
        seed: of crops, copies, Gumbel noise and stream order.
        batch: images adapted in one pass; changes speed and memory, not the answers of an episodic method.
        chunk: images per part on disk: what a killed run has to do again at the most, and what a method that adapts to
            more than one image is handed at once (a multiple of the baselines' update sizes by default).
        shard: (i, n) takes every n-th chunk, from the i-th on; episodic methods only.
        views: how views are made; counts follow the methods.
        first_only: method -> N, for methods that are too dear for all images: an episodic one gets N images that stand for
            each task (`data.tasks.sample`), the same under every seed; any other the first N of the stream. What it says of
            them is what it would say without the limit, where N is a multiple of its update size.
        task_share: (i, n) takes every n-th task, from the i-th on: how processes share a run, whatever its methods.
    """

    seed: int = 0
    batch: int = 16
    chunk: int = 128
    shard: tuple[int, int] = (0, 1)
    views: ViewSettings = field(default_factory=ViewSettings)
    first_only: Mapping[str, int] = field(default_factory=dict)
    task_share: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        if self.batch < 1 or self.chunk < 1:
            raise UserError("batch and chunk must be at least 1.")
        if self.seed < 0:
            raise UserError(f"A seed is a whole number from 0 on, not {self.seed}.")
        for name, (i, n) in (("Shard", self.shard), ("Task share", self.task_share)):
            if not 0 <= i < n:
                raise UserError(f"{name} {i}/{n} does not exist; use i/n with 0 <= i < n.")


@cache  # it stands in every record
def versions() -> str:
    names = ("grpo-tta", "torch", "open_clip_torch")
    return " ".join(f"{name}={importlib.metadata.version(name)}" for name in names)


def stream_order(task: Task, seed: int) -> list[int]:
    """The order in which a task's images are seen: seeded, except where the order is the task."""
    n = len(task.image_ids)
    if task.ordered:
        return list(range(n))
    return [int(i) for i in np.random.default_rng([seed, zlib.crc32(task.name.encode())]).permutation(n)]


def with_counts(settings: ViewSettings, methods: Sequence[Method]) -> ViewSettings:
    """The same kind of views, as many as the most demanding method needs."""
    views = max(method.views for method in methods)
    copies = max(method.copies for method in methods)
    return replace(settings, views=views, content_free=copies)


def describe_run(backbone: Backbone, tasks: Sequence[Task], methods: Sequence[Method], settings: RunSettings) -> dict[str, Any]:
    """What a run depends on; two runs with the same description give the same predictions."""
    return {
        "model": backbone.name,
        "fingerprint": backbone.fingerprint,
        "seed": settings.seed,
        "chunk": settings.chunk,
        "views": asdict(settings.views),
        "first_only": dict(settings.first_only),
        "tasks": {task.name: len(task.image_ids) for task in tasks},
        "images": {task.name: short_hash([task.version, *task.image_ids]) for task in tasks},
        "classes": {task.name: list(task.classes) for task in tasks},
        "templates": {task.name: list(task.templates) for task in tasks},
        "methods": {
            m.name: {
                "protocol": m.protocol,
                "reward": m.reward,
                "teacher": m.teacher,
                "views": m.views,
                "copies": m.copies,
                "settings": asdict(m.settings) if m.settings is not None else None,
            }
            for m in methods
        },
    }


def check_same_run(folder: Path | str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises UserError where a folder's `run.json` tells of another run than the one wanted."""
    found, wanted = ({"engine": "local", **run} for run in (found, wanted))
    check_same("run", folder, found, wanted)


def check_same(what: str, folder: Path | str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises UserError where a folder's description is another one than the one wanted, and says in which entries."""
    if different := [key for key, value in wanted.items() if found.get(key) != value]:
        raise UserError(
            f"{folder} holds another {what} ({', '.join(different)} differ); name another --out or remove the folder."
        )


def check_seeds(seeds: Sequence[int]) -> None:
    """
    Raises:
        UserError: none, or one twice.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError("Name each seed once, and at least one.")


def _open_run(folder: Path, description: dict[str, Any]) -> dict[str, Any]:
    """Starts a run's folder or checks that an existing one holds the same run."""
    path = folder / "run.json"
    wanted = json.loads(json.dumps(description))
    if path.is_file():
        found = json.loads(path.read_text())
        check_same_run(folder, found, wanted)
        return found
    if (folder / "records").exists():
        raise UserError(f"{folder} holds records without a run.json; name another --out.")
    wanted |= {"versions": versions(), "cost": {}}
    write_json(path, wanted)
    return wanted


def time_methods(policy: Policy, task: Task, methods: Sequence[Method], settings: RunSettings) -> dict[str, dict[str, float]]:
    """Milliseconds an image and peak memory of each method on its own: views, frozen pass and method, on a few images.

    What cannot be timed, because its images or the method itself fail, has no figures; the run will tell why.
    """
    images, found = [], []
    for number in range(min(settings.batch, len(task.image_ids))):
        with contextlib.suppress(Exception):
            images.append(to_rgb(task.load(number)[0]))
            found.append(task.image_ids[number])
    names = tuple(found)
    out: dict[str, dict[str, float]] = {}
    for method in methods if images else ():

        def call(method: Method = method) -> None:
            method(policy, look(policy, images, names, settings.views, settings.seed, method), {})

        with contextlib.suppress(Exception):
            milliseconds, memory = measure(call, policy.backbone.device)
            out[method.name] = {"ms": milliseconds / len(images), "peak_memory_mb": memory}
    return out


def open_run(
    backbone: Backbone,
    tasks: Sequence[Task],
    methods: Sequence[Method],
    out: Path,
    settings: RunSettings,
    *,
    timed: bool = True,
) -> None:
    """Starts the folder of a run, or checks that an existing one holds the same run.

    Args:
        timed: whether each method is timed alone, on one batch of the first task, where that has not been done.

    Raises:
        UserError: the folder holds another run or cannot be written, a task's classes make no prompts, or a stateful method is
            to be sharded.
    """
    stateful = [m.name for m in methods if m.protocol != "episodic"]
    if stateful and settings.shard[1] > 1:
        raise UserError(f"{stateful[0]} depends on the order of images and cannot be sharded; run it in one piece.")
    if not (out / "run.json").is_file():
        for task in tasks:
            task_policy(backbone, task)  # refuses unusable classes before the folder is bound to them
    info = _open_run(out, describe_run(backbone, tasks, methods, settings))
    if timed and tasks and not info["cost"]:
        info["cost"] = time_methods(task_policy(backbone, tasks[0]), tasks[0], methods, settings)
        write_json(out / "run.json", info)


def run(
    backbone: Backbone,
    tasks: Sequence[Task],
    methods: Sequence[Method],
    out: Path,
    settings: RunSettings,
    progress: Progress = lambda task, images: None,
    *,
    timed: bool = True,
) -> None:
    """Runs methods on tasks into a folder; an existing folder with the same description is resumed.

    An image that cannot be read, or on which a method raises, becomes a row with its error, and the run goes on.

    Args:
        timed: as in `open_run`.

    Raises:
        UserError: as `open_run`.
    """
    open_run(backbone, tasks, methods, out, settings, timed=timed)
    first, step = settings.task_share
    for task in tasks[first::step]:
        _run_task(task_policy(backbone, task), task, methods, out, settings, progress)


def task_policy(backbone: Backbone, task: Task) -> Policy:
    """The frozen policy of a task: its classes as the model reads them."""
    return Policy(backbone, make_prompts(backbone, task.classes, task.templates, task.ensemble, repeats=task.repeated_names))


def _run_task(
    policy: Policy, task: Task, methods: Sequence[Method], out: Path, settings: RunSettings, progress: Progress
) -> None:
    order = stream_order(task, settings.seed)
    chunks = [order[i : i + settings.chunk] for i in range(0, len(order), settings.chunk)]
    states: dict[str, State] = {m.name: {} for m in methods}
    for index, numbers in enumerate(chunks):
        if index % settings.shard[1] != settings.shard[0]:
            continue
        path = part_path(out, task.name, index)
        state_path = out / "state" / f"{task.name}--{index:06d}"
        if path.is_file():
            states = _load_states(state_path, methods, states)
        else:
            places = range(index * settings.chunk, index * settings.chunk + len(numbers))
            rows = run_chunk(policy, task, numbers, places, methods, states, settings)
            # The state is written before the rows: a run killed between the two repeats the chunk from the state before.
            _save_states(state_path, methods, states)
            write_part(path, rows)
        progress(task.name, len(numbers))


def _save_states(folder: Path, methods: Sequence[Method], states: dict[str, State]) -> None:
    for method in methods:
        if state := states[method.name]:
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f".{method.name}.partial"
            save_file({key: value.detach().cpu().contiguous() for key, value in state.items()}, partial)
            partial.replace(folder / f"{method.name}.safetensors")


def _load_states(folder: Path, methods: Sequence[Method], before: dict[str, State]) -> dict[str, State]:
    loaded = dict(before)
    for method in methods:
        path = folder / f"{method.name}.safetensors"
        if path.is_file():
            loaded[method.name] = load_file(path)
    return loaded


@final
@dataclass(frozen=True)
class _Image:
    """What the runner knows of an image and a method must not: its number in the task, its place in the stream, its label.

    `key` is what a method gets in place of the id, to draw the image's random numbers by.
    """

    image_id: str
    number: int
    order: int
    label: int
    key: str = ""


def run_chunk(
    policy: Policy,
    task: Task,
    numbers: Sequence[int],
    places: Sequence[int],
    methods: Sequence[Method],
    states: dict[str, State],
    settings: RunSettings,
) -> list[Record]:
    """Rows of one chunk: the images `numbers` of the task, at `places` of its stream; `states` is moved on in place.

    Episodic methods run batch by batch. The others get the whole chunk at once, so that their update size is their own
    and not the batch's.
    """
    rows: list[Record] = []
    waiting: dict[str, list[tuple[list[_Image], ImageBatch]]] = {m.name: [] for m in methods}

    few = {name: sample(task, limit) for name, limit in settings.first_only.items()}

    def wants(method: Method, image: _Image) -> bool:
        if method.name not in few:
            return True
        return image.number in few[method.name] if method.protocol == "episodic" else image.order < len(few[method.name])

    def failed(image: _Image, error: Exception) -> None:
        hit = [method for method in methods if wants(method, image)]
        rows.extend(Record(**_common(task, image, method, settings), error=sentence(error)) for method in hit)

    for first in range(0, len(numbers), settings.batch):
        pictures, images = [], []
        batch_of = slice(first, first + settings.batch)
        for place, number in zip(places[batch_of], numbers[batch_of], strict=True):
            try:
                picture, label = task.load(number)
                picture = to_rgb(picture)
                images.append(_Image(task.image_ids[number], number, place, label, random_key(task, number, picture)))
                pictures.append(picture)
            except Exception as error:
                failed(_Image(task.image_ids[number], number, place, -1), error)
        batches = []
        for some, batch, problem in _observe(policy, pictures, images, methods, settings):
            if batch is None:
                failed(some[0], problem or UserError("The image could not be read by the model."))
            else:
                batches.append((some, batch))
        for some, batch in batches:
            for method in methods:
                mine = [place for place, image in enumerate(some) if wants(method, image)]
                if not mine:
                    continue
                given = [some[place] for place in mine]
                part = batch if len(mine) == len(some) else batch.part(mine)
                if method.protocol == "episodic":
                    rows += _attempt(policy, task, given, part, method, states, settings)
                else:
                    waiting[method.name].append((given, part.first(method.views, method.copies)))
    for method in methods:
        if parts := waiting[method.name]:
            whole = concatenate([part for _, part in parts])
            rows += _attempt(policy, task, [i for given, _ in parts for i in given], whole, method, states, settings)
    return rows


def _observe(
    policy: Policy, pictures: Sequence[Image.Image], images: Sequence[_Image], methods: Sequence[Method], settings: RunSettings
) -> Iterator[tuple[Sequence[_Image], ImageBatch | None, Exception | None]]:
    """The frozen pass over a batch; where it fails, image by image, so that one image does not spoil the others."""
    if not pictures:
        return
    names = tuple(image.key for image in images)
    try:
        views, copies = make_batch(policy.backbone, pictures, names, with_counts(settings.views, methods), settings.seed)
        seen = observe(policy, views, copies, methods)
    except Exception as error:
        if len(images) == 1:
            yield images, None, error
            return
        for picture, image in zip(pictures, images, strict=True):
            yield from _observe(policy, [picture], [image], methods, settings)
        return
    yield images, ImageBatch(names, views, copies, seen, settings.seed), None


def _attempt(
    policy: Policy,
    task: Task,
    images: Sequence[_Image],
    batch: ImageBatch,
    method: Method,
    states: dict[str, State],
    settings: RunSettings,
) -> list[Record]:
    """Rows of one method on a batch; where it raises, image by image, and a row with the error for each that fails."""
    started = time.perf_counter()
    try:
        adaptation, state = method(policy, batch, states[method.name])
        _check_finite(adaptation)
    except Exception as error:
        if len(images) == 1:
            return [Record(**_common(task, images[0], method, settings), error=sentence(error))]
        parts = (
            _attempt(policy, task, [image], batch.part(slice(i, i + 1)), method, states, settings)
            for i, image in enumerate(images)
        )
        return list(itertools.chain.from_iterable(parts))
    states[method.name] = state
    milliseconds = 1000 * (time.perf_counter() - started) / len(images)
    memory = peak_memory_mb(policy.backbone.device)
    return [
        Record(**_common(task, image, method, settings), **row, milliseconds=milliseconds, peak_memory_mb=memory)
        for image, row in zip(images, _rows(adaptation), strict=True)
    ]


def _common(task: Task, image: _Image, method: Method, settings: RunSettings) -> dict[str, Any]:
    return {
        "task": task.name,
        "kind": task.kind,
        "image_id": image.image_id,
        "order": image.order,
        "label": image.label,
        "method": method.name,
        "protocol": method.protocol,
        "reward": method.reward,
        "seed": settings.seed,
        "settings_hash": short_hash(method.settings),
        "versions": versions(),
    }


def _check_finite(adaptation: Adaptation) -> None:
    if torch.isnan(adaptation.after).any():
        raise UserError("The method returned NaN; lower its learning rate.")


def _rows(adaptation: Adaptation) -> Iterator[dict[str, Any]]:
    """What a batch's adaptation says about each image, as plain values."""
    before, after = adaptation.before.double().cpu(), adaptation.after.double().cpu()
    top = min(5, after.shape[-1])
    entropy_before, entropy = objective.entropy(before), objective.entropy(after)
    episode = adaptation.episode
    for b in range(len(after)):
        forwards, backwards = adaptation.cost.of(b)
        first, second = after[b].topk(2).values.exp().tolist()
        row: dict[str, Any] = {
            "prediction_before": int(before[b].argmax()),
            "prediction": int(after[b].argmax()),
            "confidence_before": float(before[b].max().exp()),
            "confidence": first,
            "margin": first - second,
            "top5_before": before[b].topk(top).indices.tolist(),
            "top5": after[b].topk(top).indices.tolist(),
            "entropy_before": float(entropy_before[b]),
            "entropy": float(entropy[b]),
            "forwards": forwards,
            "backwards": backwards,
        }
        if episode is not None:
            mask = episode.proposal.group.mask[b, 0].cpu()
            last = episode.steps[-1] if episode.steps else None
            row |= {
                "group": episode.proposal.group.classes[b, 0].cpu()[mask].tolist(),
                "rewards": episode.proposal.rewards[b, 0].double().cpu()[mask].tolist(),
                "advantages": episode.proposal.advantages[b, 0].double().cpu()[mask].tolist(),
                "stepped": bool(episode.proposal.stepped[b]),
            }
            if last is not None:
                row |= {"clipped": float(last.clipped[b]), "kl": float(last.kl[b])}
        yield row
