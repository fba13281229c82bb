"""The runner: streams tasks through methods and writes one row per image and method, so that a killed run resumes.

Views and the frozen pass are made once per image and shared by all methods. Labels stay here and in `rows`.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from grpo_tta.backbones.base import Backbone
from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.bench.records import Record, part_path, write_json, write_part
from grpo_tta.bench.rows import KnownImage, RowMaker
from grpo_tta.bench.runs import RunSettings, describe_run, start_run
from grpo_tta.bench.timing import peak_memory_mb, time_methods
from grpo_tta.data.tasks import Task, image_of, sample
from grpo_tta.engine.encode import encode_for
from grpo_tta.engine.interface import Adaptation, ImageBatch, Method, State, concatenate, portable
from grpo_tta.engine.policy import Policy
from grpo_tta.engine.retry import batch_or_each
from grpo_tta.errors import UserError

Progress = Callable[[str, int, bool], None]
"""(task, images done, whether an earlier run did them)."""


def task_policy(backbone: Backbone, task: Task) -> Policy:
    """The frozen policy of a task: its classes as the model reads them."""
    return Policy(backbone, make_prompts(backbone, task.classes, task.templates, task.ensemble, repeats=task.repeated_names))


def stream_order(task: Task, seed: int) -> list[int]:
    """The order in which a task's images are seen: seeded, except where the order is the task."""
    n = len(task.image_ids)
    if task.ordered:
        return list(range(n))
    return [int(i) for i in np.random.default_rng([seed, zlib.crc32(task.name.encode())]).permutation(n)]


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
    info = start_run(out, describe_run(backbone, tasks, methods, settings))
    if timed and tasks and not info["cost"]:
        info["cost"] = time_methods(task_policy(backbone, tasks[0]), tasks[0], methods, settings)
        write_json(out / "run.json", info)


def run(
    backbone: Backbone,
    tasks: Sequence[Task],
    methods: Sequence[Method],
    out: Path,
    settings: RunSettings,
    progress: Progress = lambda task, images, before: None,
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
            progress(task.name, len(numbers), True)
        else:
            places = range(index * settings.chunk, index * settings.chunk + len(numbers))
            rows = run_chunk(policy, task, numbers, places, methods, states, settings, progress)
            # The state is written before the rows: a run killed between the two repeats the chunk from the state before.
            _save_states(state_path, methods, states)
            write_part(path, rows)


def _save_states(folder: Path, methods: Sequence[Method], states: dict[str, State]) -> None:
    for method in methods:
        if state := states[method.name]:
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f".{method.name}.partial"
            save_file(portable(state), partial)
            partial.replace(folder / f"{method.name}.safetensors")


def _load_states(folder: Path, methods: Sequence[Method], before: dict[str, State]) -> dict[str, State]:
    loaded = dict(before)
    for method in methods:
        path = folder / f"{method.name}.safetensors"
        if path.is_file():
            loaded[method.name] = load_file(path)
    return loaded


def run_chunk(
    policy: Policy,
    task: Task,
    numbers: Sequence[int],
    places: Sequence[int],
    methods: Sequence[Method],
    states: dict[str, State],
    settings: RunSettings,
    progress: Progress = lambda task, images, before: None,
) -> list[Record]:
    """Rows of one chunk: the images `numbers` of the task, at `places` of its stream; `states` is moved on in place.

    Episodic methods run batch by batch. The others get the whole chunk at once, so that their update size is their own
    and not the batch's.
    """
    makers = {method.name: RowMaker(task, method, settings.seed) for method in methods}
    wants = _who_sees_what(task, settings)
    waiting: dict[str, list[tuple[list[KnownImage], ImageBatch]]] = {m.name: [] for m in methods}
    rows: list[Record] = []

    def encode(pairs: Sequence[tuple[KnownImage, Image.Image]]) -> ImageBatch:
        keys = [known.key for known, _ in pairs]
        return encode_for(methods, policy, [image for _, image in pairs], keys, settings.views, settings.seed)

    for first in range(0, len(numbers), settings.batch):
        some = slice(first, first + settings.batch)
        loaded, broken = _load(task, numbers[some], places[some], settings.views.least_side(policy.backbone.image_size))
        for pairs, batch in batch_or_each(loaded, encode):
            images = [known for known, _ in pairs]
            if isinstance(batch, Exception):
                broken.append((images[0], batch))
                continue
            for method in methods:
                chosen = [place for place, image in enumerate(images) if wants(method, image)]
                if not chosen:
                    continue
                given = [images[place] for place in chosen]
                part = batch if len(chosen) == len(images) else batch.part(chosen)
                if method.protocol == "episodic":
                    rows += _adapt(policy, part, given, makers[method.name], states)
                else:
                    waiting[method.name].append((given, method.needed(part)))
        rows += [makers[m.name].failed(image, error) for image, error in broken for m in methods if wants(m, image)]
        progress(task.name, len(numbers[some]), False)
    for method in methods:
        if parts := waiting[method.name]:
            whole = concatenate([part for _, part in parts])
            rows += _adapt(policy, whole, [image for given, _ in parts for image in given], makers[method.name], states)
    return rows


def _who_sees_what(task: Task, settings: RunSettings) -> Callable[[Method, KnownImage], bool]:
    """Whether a method is to see an image, by `RunSettings.first_only`."""
    few = {name: sample(task, limit) for name, limit in settings.first_only.items()}

    def wants(method: Method, image: KnownImage) -> bool:
        if method.name not in few:
            return True
        return image.number in few[method.name] if method.protocol == "episodic" else image.order < len(few[method.name])

    return wants


def _load(
    task: Task, numbers: Sequence[int], places: Sequence[int], least_side: int | None
) -> tuple[list[tuple[KnownImage, Image.Image]], list[tuple[KnownImage, Exception]]]:
    """Images that can be read, and those that cannot with their errors."""
    loaded: list[tuple[KnownImage, Image.Image]] = []
    broken: list[tuple[KnownImage, Exception]] = []
    for place, number in zip(places, numbers, strict=True):
        name = task.image_ids[number]
        try:
            decoded, label = image_of(task, number, least_side)
            loaded.append((KnownImage(name, number, place, label, decoded.key), decoded.image))
        except Exception as error:
            broken.append((KnownImage(name, number, place), error))
    return loaded, broken


def _adapt(
    policy: Policy, batch: ImageBatch, images: Sequence[KnownImage], maker: RowMaker, states: dict[str, State]
) -> list[Record]:
    """Rows of one method on a batch. Where it raises, image by image, and a row with the error for each that fails."""
    method = maker.method

    def adapt(places: Sequence[int]) -> tuple[Adaptation, float]:
        given = batch if len(places) == len(images) else batch.part(list(places))
        started = time.perf_counter()
        adaptation, state = method(policy, given, states[method.name])
        if torch.isnan(adaptation.after).any():
            raise UserError("The method returned NaN; lower its learning rate.")
        states[method.name] = state
        return adaptation, 1000 * (time.perf_counter() - started) / len(places)

    rows: list[Record] = []
    for places, outcome in batch_or_each(range(len(images)), adapt):
        given = [images[place] for place in places]
        if isinstance(outcome, Exception):
            rows.append(maker.failed(given[0], outcome))
        else:
            rows += maker.rows(given, *outcome, peak_memory_mb(policy.backbone.device))
    return rows
