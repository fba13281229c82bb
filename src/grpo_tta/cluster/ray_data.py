"""Past one machine: the same work on Ray Data, whose dispatch, back-pressure, retries and resume these are.

Ray Data reads a Parquet manifest and cuts it into chunks; actors hold the model once and adapt one chunk at a time
through the function that the local runner calls (`benchmark.run_chunk`, `classify.classify`); their rows stream to
Parquet. Resume is Ray Data's checkpointing: the ids of a chunk are written as pending, then its rows, then the ids are
committed, and a later run drops committed ids while it reads. Only this module imports Ray. Episodic methods only.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import resource
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, final

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import ray
import torch
from PIL import Image
from ray.data import ActorPoolStrategy, DataContext
from ray.data.checkpoint import CheckpointConfig
from ray.exceptions import RayError, RayTaskError

from grpo_tta.backbones.base import Backbone, Dtype, load_backbone
from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.bench.records import SCHEMA
from grpo_tta.bench.runner import RunSettings, check_same_run, describe_run, run_chunk, stream_order, task_policy, versions
from grpo_tta.classifier import GRPOTTA, Prediction
from grpo_tta.classify import classify
from grpo_tta.cluster.attempts import GAVE_UP, Attempts
from grpo_tta.cluster.manifest import TASK_COLUMNS, Images, Manifest, filesystem, open_manifest, write_tasks
from grpo_tta.data.labels import class_names, own_names, read_labels
from grpo_tta.data.tasks import Task
from grpo_tta.engine.interface import Method
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError

_LIGHT_CPUS = 2  # of a Ray started here: for reading, writing and the filter of a resumed run
_TOP = 5
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
"""A row of `predict --engine ray`: an answer, or an error and nothing else."""


@final
@dataclass(frozen=True)
class RaySettings:
    """
    Attributes:
        actors: how many hold the model; Ray places them where there is room.
        cpus: of each actor; torch runs as many threads (at least one).
        gpus: of each actor; below 1, several share a GPU and one reads while another computes.
        memory_gb: of each actor, beyond what it takes with the model loaded: reserved with Ray and, on Linux and without a GPU,
            enforced, so that an image too large for it becomes a row instead of the end of the process. None: no limit.
        chunk: images an actor is handed at once, one file of rows each: what an actor at work repeats at the most
            when the run is killed.
        address: of a running Ray; None takes RAY_ADDRESS, which `ray job submit` sets, or starts Ray here.
        object_store_mb: of a Ray started here; None leaves it to Ray.
    """

    actors: int = 2
    cpus: float = 1.0
    gpus: float = 0.0
    memory_gb: float | None = None
    chunk: int = 128
    address: str | None = None
    object_store_mb: int | None = None

    def __post_init__(self) -> None:
        if self.actors < 1 or self.chunk < 1:
            raise UserError("Actors and chunk must be at least 1.")
        if self.cpus <= 0 or self.gpus < 0 or (self.memory_gb is not None and self.memory_gb <= 0):
            raise UserError("The CPUs and the memory of an actor must be above 0, its GPUs at least 0.")

    def resources(self) -> dict[str, float]:
        """What Ray is asked for per actor."""
        memory = {} if self.memory_gb is None else {"memory": int(self.memory_gb * 1e9)}
        return {"num_cpus": self.cpus, "num_gpus": self.gpus} | memory


@final
@dataclass(frozen=True)
class Model:
    """The model as a name, for every actor to load: see `grpo_tta.backbones.base.load_backbone`."""

    name: str
    device: str = "cpu"
    download: bool = False
    dtype: Dtype = "float32"

    def load(self) -> Backbone:
        return load_backbone(self.name, device=self.device, download=self.download, dtype=self.dtype)


class Source(Protocol):
    """Where the images of a benchmark come from. Travels to the actors.

    Attributes:
        counts: task -> how many images.
    """

    @property
    def counts(self) -> Mapping[str, int]: ...

    def policy(self, backbone: Backbone, name: str) -> Policy:
        """The frozen model with the prompts of a task."""
        ...

    def split(self, table: pa.Table) -> Iterator[tuple[Task, list[int], list[int]]]:
        """Rows of the manifest by task: the task, numbers of its images, places in its stream."""
        ...


@final
@dataclass(frozen=True)
class TaskSource:
    """Tasks that draw their own images from a number (the nano suite)."""

    tasks: tuple[Task, ...]

    @property
    def counts(self) -> Mapping[str, int]:
        return {task.name: len(task.image_ids) for task in self.tasks}

    def policy(self, backbone: Backbone, name: str) -> Policy:
        (task,) = (task for task in self.tasks if task.name == name)
        return task_policy(backbone, task)

    def split(self, table: pa.Table) -> Iterator[tuple[Task, list[int], list[int]]]:
        rows = table.select(["task", "number", "order"]).to_pylist()
        for task in self.tasks:
            if mine := [row for row in rows if row["task"] == task.name]:
                yield task, [row["number"] for row in mine], [row["order"] for row in mine]


@final
@dataclass(frozen=True)
class ManifestSource:
    """One task of the user's own: its labels as they stand in the manifest, in order, with the name of each for prompts."""

    manifest: Manifest
    names: Mapping[str, str]
    template: str

    @property
    def counts(self) -> Mapping[str, int]:
        return {self.manifest.name: self.manifest.rows}

    @property
    def _classes(self) -> tuple[str, ...]:
        return class_names(self.names)

    def policy(self, backbone: Backbone, name: str) -> Policy:
        return Policy(backbone, make_prompts(backbone, self._classes, (self.template,), (self.template,)))

    def split(self, table: pa.Table) -> Iterator[tuple[Task, list[int], list[int]]]:
        ids, labels = table["image_id"].to_pylist(), table["label"].to_pylist()
        places = table["order"].to_pylist() if "order" in table.column_names else [-1] * len(ids)
        images = Images(table, self.manifest.base)
        numbers = {label: number for number, label in enumerate(self.names)}

        def load(number: int) -> tuple[Image.Image, int]:
            label = labels[number]
            if label is None or str(label) not in numbers:
                raise UserError(f"{ids[number]}: label {label!r} is unknown; add it to the labels file or correct the row.")
            return images.load(number), numbers[str(label)]

        names, prompts = self._classes, (self.template,)
        task = Task(self.manifest.name, "real", names, self.template, prompts, ids, load, keyed_by="pixels")  # as locally
        with contextlib.closing(images):
            yield task, list(range(len(ids))), places


@final
@dataclass(frozen=True)
class BenchJob:
    """What every actor of a benchmark is told."""

    model: Model
    source: Source
    methods: tuple[Method, ...]
    settings: RunSettings

    def describe(self) -> dict[str, Any]:
        """What the answers depend on; raises UserError where model or prompts cannot be had."""
        backbone = self.model.load()
        prompts = {name: self.source.policy(backbone, name).prompts for name in self.source.counts}
        return describe_run(backbone, [], self.methods, self.settings) | {
            "tasks": dict(self.source.counts),
            "classes": {name: list(found.labels) for name, found in prompts.items()},
            "templates": {name: list(found.templates) for name, found in prompts.items()},
        }

    def start(self) -> Callable[[pa.Table, bool], pa.Table]:
        """Loads the model, once an actor; the function returned adapts to rows of the manifest."""
        backbone = self.model.load()
        policies: dict[str, Policy] = {}

        def adapt_rows(table: pa.Table, given_up: bool) -> pa.Table:
            records = []
            for task, numbers, places in self.source.split(table):
                if task.name not in policies:
                    policies[task.name] = self.source.policy(backbone, task.name)
                chosen = replace(task, load=_refuse) if given_up else task
                states: dict[str, dict[str, torch.Tensor]] = {method.name: {} for method in self.methods}
                records += run_chunk(policies[task.name], chosen, numbers, places, self.methods, states, self.settings)
            return pa.Table.from_pylist([asdict(record) for record in records], schema=SCHEMA)

        return adapt_rows


@final
@dataclass(frozen=True)
class PredictJob:
    """What every actor of `predict` is told; `options` are those of `GRPOTTA`."""

    model: Model
    labels: tuple[str, ...]
    options: Mapping[str, Any]
    batch: int
    manifest: Manifest

    def _classifier(self) -> GRPOTTA:
        return GRPOTTA(self.model.load(), self.labels, batch=self.batch, **self.options)

    def describe(self) -> dict[str, Any]:
        """What the answers depend on; raises UserError where model, labels or templates cannot be used."""
        found = self._classifier()
        return {
            "model": found.backbone.name,
            "fingerprint": found.backbone.fingerprint,
            "labels": list(found.labels),
            "templates": list(found.policy.prompts.templates),
            "seed": found.seed,
            "settings": asdict(found.settings),
            "images": self.manifest.rows,
        }

    def start(self) -> Callable[[pa.Table, bool], pa.Table]:
        """Loads the model, once an actor; the function returned classifies rows of the manifest."""
        classifier = self._classifier()

        def classify_rows(table: pa.Table, given_up: bool) -> pa.Table:
            ids = table["image_id"].to_pylist()
            with contextlib.closing(Images(table, self.manifest.base)) as images:
                load = _refuse if given_up else images.load
                answers = classify(classifier, load, len(ids), self.batch)
                rows = [{"image_id": ids[number]} | _prediction_row(answer) for number, answer in answers]
            return pa.Table.from_pylist(rows, schema=PREDICTIONS)

        return classify_rows


def _refuse(number: int) -> Any:
    raise UserError(GAVE_UP)


def _prediction_row(answer: Prediction | str) -> dict[str, Any]:
    if isinstance(answer, str):
        return {"error": answer}
    top = sorted(answer.probabilities.items(), key=lambda pair: -pair[1])[:_TOP]
    return {
        "label": answer.label,
        "probability": answer.probability,
        "label_before": answer.label_before,
        "probability_before": answer.probabilities_before[answer.label_before],
        "top_labels": [label for label, _ in top],
        "top_probabilities": [probability for _, probability in top],
        "forwards": answer.forwards,
        "backwards": answer.backwards,
    }


Job = BenchJob | PredictJob


@final
class Adapter:
    """The actor: holds the model and turns a chunk of the manifest into rows."""

    def __init__(self, job: Job, settings: RaySettings, notes: str) -> None:
        torch.set_num_threads(max(1, int(settings.cpus)))
        self._work = job.start()
        if settings.memory_gb is not None and not settings.gpus:
            _limit_memory(settings.memory_gb)
        self._attempts = Attempts(notes)

    def __call__(self, table: pa.Table) -> pa.Table:
        ids = table["image_id"].to_pylist()
        rows = pa.concat_tables(self._attempts.run(ids, lambda some, given_up: self._work(table[some], given_up)))
        # Ray would cut a larger block anywhere, between the rows of one image too, and commit the parts one by one.
        if rows.nbytes > DataContext.get_current().target_max_block_size:
            raise UserError(f"The rows of {len(ids)} images take {rows.nbytes / 1e6:.0f} MB, too much; lower --chunk.")
        return rows


def _limit_memory(gigabytes: float) -> None:
    """Lets the private memory of this process grow by so much; beyond it, allocations raise instead of killing it."""
    status = Path("/proc/self/status")
    if status.is_file():
        now = next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_DATA, (now + int(gigabytes * 1e9), resource.RLIM_INFINITY))


@contextlib.contextmanager
def session(settings: RaySettings) -> Iterator[None]:
    """Ray for the time of a run: one that is there already, the cluster named, or one started here (and ended).

    No usage statistics and no dashboard.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if settings.address or os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(address=settings.address, **quiet)
        except ConnectionError as error:
            raise UserError(f"No Ray cluster can be reached ({error}); check --ray-address.") from None
    else:
        # Else Ray Data starts 32 processes to read the footers of a manifest.
        os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")
        ray.init(
            address="local",
            num_cpus=math.ceil(settings.actors * settings.cpus) + _LIGHT_CPUS,
            include_dashboard=False,
            object_store_memory=None if settings.object_store_mb is None else settings.object_store_mb * 10**6,
            **quiet,
        )
    try:
        yield
    finally:
        ray.shutdown()


def _write_json(uri: str, content: Any) -> None:
    fs, path = filesystem(uri)
    with fs.open_output_stream(f"{path}.partial") as stream:
        stream.write((json.dumps(content, indent=2) + "\n").encode())
    fs.move(f"{path}.partial", path)


def _open_run(out: str, description: dict[str, Any]) -> None:
    """Starts a run's folder or checks that an existing one holds the same run on Ray."""
    fs, path = filesystem(out)
    fs.create_dir(path, recursive=True)
    wanted = json.loads(json.dumps(description)) | {"engine": "ray"}
    if fs.get_file_info(f"{path}/run.json").type == pafs.FileType.File:
        with fs.open_input_stream(f"{path}/run.json") as stream:
            check_same_run(out, json.loads(stream.read()), wanted)
        return
    _write_json(f"{out}/run.json", wanted | {"versions": versions(), "cost": {}})


def _describe(job: Job, settings: RaySettings) -> dict[str, Any]:
    """The job's description, found where an actor would run: the driver needs neither the model nor a GPU."""
    try:
        return ray.get(ray.remote(lambda: job.describe()).options(**settings.resources()).remote())
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise


def _run(job: Job, manifest: str, columns: Sequence[str], out: str, folder: str, rows: int, settings: RaySettings) -> None:
    """Streams the manifest through the actors into `out/folder`; ids committed by an earlier run are left out.

    Raises:
        UserError: the folder holds another run, the run broke off, or the rows written are not those expected.
    """
    if job.model.device.startswith("cuda") != (settings.gpus > 0):
        raise UserError("An actor on a GPU needs both --device cuda and --actor-gpus above 0.")
    fs, path = filesystem(out)
    with session(settings):
        _open_run(out, _describe(job, settings))
        context = DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.checkpoint_config = CheckpointConfig(
            "image_id", f"{path}/checkpoint", delete_checkpoint_on_success=False, override_filesystem=fs
        )
        context.checkpoint_config.checkpoint_actor_pool_max_size = 1
        source_fs, source = filesystem(manifest)
        with DataContext.current(context):
            chunks = (
                ray.data.read_parquet(source, filesystem=source_fs)
                .select_columns(list(columns))
                .repartition(target_num_rows_per_block=settings.chunk, strict=True)
            )
            answers = chunks.map_batches(
                Adapter,
                fn_constructor_args=(job, settings, f"{out}/attempts"),
                batch_size=None,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=settings.actors),
                **settings.resources(),
            )
            try:
                with warnings.catch_warnings():
                    # Ray's advice where a resumed run has fewer chunks left than actors.
                    warnings.filterwarnings("ignore", "The minimum number of concurrent actors", UserWarning)
                    answers.write_parquet(f"{path}/{folder}", filesystem=fs)
            except RayError as error:
                cause = error.cause if isinstance(error, RayTaskError) else error
                raise UserError(f"The run broke off; the same command resumes it. {cause}") from None
    found = ds.dataset(f"{path}/{folder}", filesystem=fs, format="parquet").count_rows()
    if found != rows:
        raise UserError(f"{out} holds {found} rows instead of {rows}; the ids of the manifest must differ from each other.")
    fs.delete_dir(f"{path}/attempts")


def bench_on_ray(
    model: Model,
    source: TaskSource | ManifestSource,
    methods: Sequence[Method],
    out: str,
    run_settings: RunSettings,
    settings: RaySettings,
) -> None:
    """`benchmark.run` on Ray; the records are the same but for time and memory.

    Raises:
        UserError: a method carries state, the model cannot be had, or the folder holds another run.
    """
    stateful = [method.name for method in methods if method.protocol != "episodic"]
    if stateful:
        raise UserError(f"{stateful[0]} depends on the order of images and cannot run on Ray; leave it out of --methods.")
    if isinstance(source, TaskSource):
        try:
            ray.cloudpickle.dumps(source)
        except (TypeError, AttributeError) as error:
            raise UserError(f"The tasks cannot travel to Ray's actors ({error}); give a Parquet manifest as --data.") from None
    job = BenchJob(model, source, tuple(methods), replace(run_settings, chunk=settings.chunk))
    if isinstance(source, TaskSource):
        uri, columns = f"{out}/manifest.parquet", TASK_COLUMNS
        write_tasks(source.tasks, [stream_order(task, run_settings.seed) for task in source.tasks], uri)
    else:
        uri, columns = source.manifest.uri, source.manifest.columns
    _run(job, uri, columns, out, "records", sum(source.counts.values()) * len(methods), settings)


def manifest_source(data: str, out: str, template: str, labels_file: Path | None) -> ManifestSource:
    """The user's own images with labels; without a labels file, the names found in the data, sorted.

    Raises:
        UserError: as `open_manifest` and `read_labels`.
    """
    manifest = open_manifest(data, out, labelled=True)
    names = read_labels(labels_file) if labels_file else own_names(manifest.labels(), data)
    return ManifestSource(manifest, names, template)


def predict_on_ray(
    model: Model, labels: Sequence[str], source: str, out: str, batch: int, options: Mapping[str, Any], settings: RaySettings
) -> int:
    """Classifies the images of a manifest or folder into `out/predictions`, one row each; returns how many.

    Args:
        options: templates, settings and seed of `GRPOTTA`.

    Raises:
        UserError: unusable arguments, manifest or model, or the folder holds another run.
    """
    manifest = open_manifest(source, out, labelled=False)
    job = PredictJob(model, tuple(labels), options, batch, manifest)
    _run(job, manifest.uri, manifest.columns, out, "predictions", manifest.rows, settings)
    return manifest.rows
