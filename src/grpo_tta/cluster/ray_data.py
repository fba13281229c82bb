"""Past one machine: the same work on Ray Data, whose dispatch, back-pressure, retries and resume these are.

Ray Data reads a Parquet manifest and cuts it into chunks. Actors hold the model once and adapt one chunk at a time. Their rows
stream to Parquet. Resume is Ray Data's checkpointing: the ids of a chunk are written as pending, then its rows, then the ids
are committed. A later run drops committed ids while it reads. Episodic methods only.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow.dataset as ds
import pyarrow.fs as pafs
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data.checkpoint import CheckpointConfig
from ray.exceptions import RayError, RayTaskError

from grpo_tta.bench.runner import stream_order
from grpo_tta.bench.runs import RunSettings, check_same_run, versions
from grpo_tta.cluster.actor import Adapter
from grpo_tta.cluster.jobs import BenchJob, Job, ModelName, PredictJob
from grpo_tta.cluster.manifest import TASK_COLUMNS, open_manifest, write_tasks
from grpo_tta.cluster.session import session
from grpo_tta.cluster.settings import RaySettings
from grpo_tta.cluster.sources import ManifestSource, TaskSource
from grpo_tta.engine.interface import Method
from grpo_tta.errors import UserError, counted
from grpo_tta.images.remote import filesystem


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
        with DataContext.current(context):
            answers = _answers(job, manifest, columns, f"{out}/attempts", settings)
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
        raise UserError(
            f"{out} holds {counted(found, 'row')} instead of {rows:,}; the ids of the manifest must differ from each other."
        )
    fs.delete_dir(f"{path}/attempts")


def _answers(job: Job, manifest: str, columns: Sequence[str], notes: str, settings: RaySettings) -> ray.data.Dataset:
    """The rows of the answers, chunk by chunk; nothing is computed before they are read."""
    fs, path = filesystem(manifest)
    chunks = (
        ray.data.read_parquet(path, filesystem=fs)
        .select_columns(list(columns))
        .repartition(target_num_rows_per_block=settings.chunk, strict=True)
    )
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


def predict_on_ray(
    model: ModelName,
    labels: Sequence[str],
    source: str,
    out: str,
    batch: int,
    options: Mapping[str, Any],
    settings: RaySettings,
    note: Callable[[str], None] = lambda text: None,
) -> int:
    """Classifies the images of a manifest or folder into `out/predictions`, one row each; returns how many.

    Args:
        options: templates, settings and seed of `GRPOTTA`.
        note: is given what was left out of a folder, a sentence each.

    Raises:
        UserError: unusable arguments, manifest or model, or the folder holds another run.
    """
    manifest = open_manifest(source, out, labelled=False)
    for text in manifest.notes:
        note(text)
    job = PredictJob(model, tuple(labels), options, batch, manifest)
    _run(job, manifest.uri, manifest.columns, out, "predictions", manifest.rows, settings)
    return manifest.rows
