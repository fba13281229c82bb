"""Past one machine: the same work on Ray Data, whose dispatch, back-pressure, retries and resume these are.

Ray Data reads a Parquet manifest and cuts it into chunks. Actors hold the model once and adapt one chunk at a time. Their rows
stream to Parquet. Resume is Ray Data's checkpointing: the ids of a chunk are written as pending, then its rows, then the ids
are committed. A later run drops committed ids while it reads. Episodic methods only.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data.checkpoint import CheckpointConfig
from ray.exceptions import RayError, RayTaskError

from grpo_tta.bench.runner import stream_order
from grpo_tta.bench.runs import RunSettings, check_same_run, versions
from grpo_tta.cluster.actor import Adapter
from grpo_tta.cluster.jobs import BenchJob, Job, ModelName, PredictJob
from grpo_tta.cluster.manifest import TASK_COLUMNS, table_of, write_tasks
from grpo_tta.cluster.session import session
from grpo_tta.cluster.settings import RaySettings
from grpo_tta.cluster.sources import ManifestSource, TaskSource
from grpo_tta.engine.interface import Method
from grpo_tta.errors import UserError, counted
from grpo_tta.images.remote import Place, filesystem

_log = logging.getLogger(__name__)
J = TypeVar("J", bound=Job)
_POLL_SECONDS = 1.0


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


def _placed(job: J, settings: RaySettings) -> J:
    """The job on the device that its actors have: `auto` is a GPU where they are given one.

    Raises:
        UserError: the device that was named is another one.
    """
    device = job.model.device
    if device == "auto":
        device = "cuda" if settings.gpus else "cpu"
    if device.startswith("cuda") != (settings.gpus > 0):
        raise UserError("An actor on a GPU needs both --device cuda and --actor-gpus above 0.")
    return replace(job, model=replace(job.model, device=device))


def _describe(job: J, settings: RaySettings) -> tuple[dict[str, Any], J]:
    """The job's description, found where an actor would run: the driver needs neither the model nor a GPU.

    Returns:
        It, and the job with the precision found there, so that all actors have the same.
    """
    try:
        description = ray.get(ray.remote(lambda: job.describe()).options(**settings.resources()).remote())
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise
    if job.model.dtype == "auto":
        _log.info(f"--dtype auto: {description['dtype']}, as the processor of the first actor multiplies it.")
    return description, replace(job, model=replace(job.model, dtype=description["dtype"]))


def _run(
    job: Job,
    manifest: str,
    columns: Sequence[str],
    out: str,
    folder: str,
    rows: int,
    settings: RaySettings,
    watch: Callable[[int], None] = lambda rows: None,
) -> None:
    """Streams the manifest through the actors into `out/folder`; ids committed by an earlier run are left out.

    Raises:
        UserError: the folder holds another run, the run broke off, or the rows written are not those expected.
    """
    job = _placed(job, settings)
    fs, path = filesystem(out)
    with session(settings):
        description, job = _describe(job, settings)
        _open_run(out, description)
        context = DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.checkpoint_config = CheckpointConfig(
            "image_id", f"{path}/checkpoint", delete_checkpoint_on_success=False, override_filesystem=fs
        )
        context.checkpoint_config.checkpoint_actor_pool_max_size = 1
        with DataContext.current(context):
            answers = _answers(job, _read(manifest, columns), f"{out}/attempts", settings)
            try:
                with _watched(fs, f"{path}/{folder}", watch), warnings.catch_warnings():
                    # Ray's advice where a resumed run has fewer chunks left than actors.
                    warnings.filterwarnings("ignore", "The minimum number of concurrent actors", UserWarning)
                    answers.write_parquet(f"{path}/{folder}", filesystem=fs)
            except RayError as error:
                cause = error.cause if isinstance(error, RayTaskError) else error
                raise UserError(f"The run broke off; the same command resumes it. {cause}") from None
    found = ds.dataset(f"{path}/{folder}", filesystem=fs, format="parquet").count_rows()
    if found != rows:
        raise UserError(
            f"{out} holds {counted(found, 'row')} instead of {rows:,}; the ids of the manifest must differ from each other."
        )
    if fs.get_file_info(f"{path}/attempts").type == pafs.FileType.Directory:  # none where nothing was left to do
        fs.delete_dir(f"{path}/attempts")


@contextlib.contextmanager
def _watched(fs: pafs.FileSystem, folder: str, watch: Callable[[int], None]) -> Iterator[None]:
    """Calls `watch` meanwhile with how many rows have come into a folder of Parquet files since the last call."""
    done, counted_files = threading.Event(), set[str]()

    def new_rows() -> int:
        rows = 0
        for info in fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True)):
            if info.path.endswith(".parquet") and info.path not in counted_files:
                with contextlib.suppress(OSError, pa.ArrowException):  # not whole yet
                    rows += pq.read_metadata(info.path, filesystem=fs).num_rows
                    counted_files.add(info.path)
        return rows

    def poll() -> None:
        while not done.wait(_POLL_SECONDS):
            watch(new_rows())

    new_rows()
    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    watch(new_rows())


def _read(manifest: str, columns: Sequence[str]) -> ray.data.Dataset:
    fs, path = filesystem(manifest)
    return ray.data.read_parquet(path, filesystem=fs).select_columns(list(columns))


def _answers(job: Job, images: ray.data.Dataset, notes: str, settings: RaySettings) -> ray.data.Dataset:
    """The rows of the answers, chunk by chunk; nothing is computed before they are read."""
    chunks = images.repartition(target_num_rows_per_block=settings.chunk, strict=True)
    return chunks.map_batches(
        Adapter,
        fn_constructor_args=(job, settings, notes),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=settings.actors),
        **settings.resources(),
    )


def bench_on_ray(
    model: ModelName,
    source: TaskSource | ManifestSource,
    methods: Sequence[Method],
    out: str,
    run_settings: RunSettings,
    settings: RaySettings,
) -> None:
    """`bench.runner.run` on Ray. The records are the same but for time and memory.

    Raises:
        UserError: a method carries state, the model cannot be loaded, or the folder holds another run.
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


def count_rows(folder: str) -> int:
    """Rows of a folder of Parquet files; 0 where there is none."""
    fs, path = filesystem(folder)
    if fs.get_file_info(path).type == pafs.FileType.NotFound:
        return 0
    return ds.dataset(path, filesystem=fs, format="parquet").count_rows()


def predict_on_ray(job: PredictJob, out: str, settings: RaySettings, watch: Callable[[int], None] = lambda rows: None) -> None:
    """Classifies the images of the job's manifest into `out/predictions`, one row each.

    Args:
        watch: is given, now and then, how many rows have come since the last call.

    Raises:
        UserError: the model cannot be loaded, or the folder holds another run.
    """
    manifest = job.manifest
    _run(job, manifest.uri, manifest.columns, out, "predictions", manifest.rows, settings, watch)


@contextlib.contextmanager
def rows_from_ray(
    job: PredictJob, places: Sequence[Place] | None, settings: RaySettings
) -> Iterator[tuple[Mapping[str, Any], Iterator[dict[str, Any]]]]:
    """Classifies images without a folder of the run: their rows come to this process, in the order of the images.

    Args:
        places: the images; None for those of the job's manifest.

    Yields:
        The job's description, and the rows.

    Raises:
        UserError: the model cannot be loaded, or the run broke off.
    """
    job = _placed(job, settings)
    with session(settings), tempfile.TemporaryDirectory() as notes:
        description, job = _describe(job, settings)
        context = DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        with DataContext.current(context):
            if places is None:
                images = _read(job.manifest.uri, job.manifest.columns)
            else:
                images = ray.data.from_arrow(table_of(places))
            yield description, _rows_of(_answers(job, images, notes, settings))


def _rows_of(answers: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The minimum number of concurrent actors", UserWarning)
            for block in answers.iter_batches(batch_size=None, batch_format="pyarrow"):
                for row in block.to_pylist():
                    yield {name: value for name, value in row.items() if value is not None}
    except RayError as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        raise UserError(f"The run broke off; run the command again. {cause}") from None
