"""`grpo-tta predict --engine ray`: the inputs, rows and exit status of a run on this machine, computed on a cluster.

With `--out` the processes write their rows themselves, as Parquet, and the same command resumes. With `--csv` or `--jsonl` the
rows come to this process, in the order of the images.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow.dataset as ds

from grpo_tta.backbones.base import check_dtype
from grpo_tta.backbones.prompts import DEFAULT_TEMPLATE
from grpo_tta.bench.embeddings import EmbeddingFile, check_file
from grpo_tta.bench.predictions import Wanted
from grpo_tta.cli.ending import finish, until_stopped
from grpo_tta.cli.inputs import STANDARD_INPUT, find_inputs
from grpo_tta.cli.interrupts import Interrupts, Stopped
from grpo_tta.cli.options import class_names_of, number_of_batch, settings_of
from grpo_tta.cli.predict_options import assignments_of, workers_of
from grpo_tta.cli.predictions import Tally, WithEmbeddings, open_standard_output
from grpo_tta.cli.progress import log, progress
from grpo_tta.cluster.jobs import ModelName, PredictJob
from grpo_tta.cluster.manifest import Manifest, is_folder, is_manifest, open_manifest, write_places
from grpo_tta.cluster.ray_data import count_rows, predict_on_ray, rows_from_ray
from grpo_tta.cluster.session import session
from grpo_tta.cluster.settings import RaySettings
from grpo_tta.errors import UserError
from grpo_tta.images.remote import filesystem

if TYPE_CHECKING:
    from grpo_tta.cli.predict_options import PredictOptions
    from grpo_tta.images.remote import Place


def predict_by_ray(
    options: PredictOptions, names: Sequence[str] | Mapping[str, str], chosen: str, settings: RaySettings
) -> int:
    """Answers all images and returns the exit status.

    Args:
        chosen: the output, a field of the options; "" is `--out runs/predict`.

    Raises:
        UserError: options that Ray does not take, or as on this machine.
    """
    if options.threads is not None:
        raise UserError("With Ray the threads of each process are its --actor-cpus; leave out --threads.")
    if workers_of(options) is not None:
        raise UserError("Each of Ray's actors reads its own images; leave out --workers.")
    if chosen == "as_json":
        raise UserError("--json holds all answers in memory; with Ray use --jsonl, or --out.")
    if options.embeddings is not None:
        check_file(options.embeddings)
    job = _job(options, names)
    if chosen in ("as_csv", "as_jsonl"):
        return _to_standard_output(options, job, chosen, settings)
    return _into_folder(options, job, options.out or "runs/predict", settings)


def _job(options: PredictOptions, names: Sequence[str] | Mapping[str, str]) -> PredictJob:
    weights = None if options.weights is None else str(options.weights.expanduser().absolute())
    named = class_names_of(options.class_names)
    return PredictJob(
        ModelName(options.model, options.device, options.download, check_dtype(options.dtype), weights, named),
        names if isinstance(names, Mapping) else tuple(names),
        {
            "templates": tuple(options.template or (DEFAULT_TEMPLATE,)),
            "settings": settings_of(options.preset, assignments_of(options)),
            "seed": options.seed,
            "workers": 0,
        },
        number_of_batch(options.batch),
        Manifest("", 0, (), ".", ""),
        Wanted(options.top_k, options.all_probabilities, options.threshold),
        embeddings=options.embeddings is not None,
    )


def _alone(options: PredictOptions) -> str:
    """The one path that was given; "" where there are more, or a list."""
    alone = len(options.paths) == 1 and not options.files_from and options.paths[0] != STANDARD_INPUT
    return options.paths[0] if alone else ""


def _into_folder(options: PredictOptions, job: PredictJob, out: str, settings: RaySettings) -> int:
    alone = _alone(options)
    if alone and (is_manifest(alone) or is_folder(alone)):  # of any length: never held in memory
        manifest = open_manifest(alone, out, labelled=False)
    else:
        manifest = write_places(find_inputs(options.paths, options.files_from, log.warning), out)
    for text in manifest.notes:
        log.warning(text)
    folder, status, began = f"{out.rstrip('/')}/predictions", 0, time.monotonic()
    before = count_rows(folder)
    with session(settings), Interrupts(), progress(manifest.rows - before) as advance:
        try:
            predict_on_ray(replace(job, manifest=manifest), out, settings, lambda rows: advance(rows) if rows else None)
        except (Stopped, KeyboardInterrupt) as stop:
            status = stop.status if isinstance(stop, Stopped) else 130
    total = _read_rows(folder, options)
    new = Tally(answered=max(0, total.rows - before))
    rate = new.rows / max(time.monotonic() - began, 1e-9)
    log.info(f"Answers in {folder} (Parquet; a row with an `error` has no answer).")
    return finish(status, new, total, manifest.rows - before, rate, resumable=True)


def _read_rows(folder: str, options: PredictOptions) -> Tally:
    """Counts the rows of a folder, and writes their embeddings into the file that was asked for."""
    tally = Tally()
    if not count_rows(folder):
        return tally
    fs, path = filesystem(folder)
    data = ds.dataset(path, filesystem=fs, format="parquet")
    for some in data.to_batches(columns=["label", "label_before", "abstained", "forwards", "backwards", "error"]):
        for row in some.to_pylist():
            tally.add(row)
    if options.embeddings is not None:
        file = EmbeddingFile(options.embeddings, data.schema.field("embedding").type.list_size)
        for some in data.to_batches(columns=["image_id", "embedding"], filter=ds.field("embedding").is_valid()):
            file.add_column(some["image_id"], some["embedding"])
        file.close()
    return tally


def _to_standard_output(options: PredictOptions, job: PredictJob, chosen: str, settings: RaySettings) -> int:
    alone, places = _alone(options), None
    if alone and is_manifest(alone):
        job = replace(job, manifest=open_manifest(alone, "", labelled=False))
    else:
        places = find_inputs(options.paths, options.files_from, log.warning)
        job = replace(job, manifest=replace(job.manifest, rows=len(places)))
    with session(settings), Interrupts() as interrupts:
        try:
            return _stream(options, job, places, chosen, settings, interrupts)
        except Stopped as stop:  # before the first image
            log.warning("Interrupted before the first image.")
            return stop.status


def _stream(
    options: PredictOptions,
    job: PredictJob,
    places: Sequence[Place] | None,
    chosen: str,
    settings: RaySettings,
    interrupts: Interrupts,
) -> int:
    count, tally, began = job.manifest.rows, Tally(), time.monotonic()
    with rows_from_ray(job, places, settings) as (description, rows):
        output = open_standard_output(chosen, description["model"], description["labels"])
        if options.embeddings is not None:
            output = WithEmbeddings(output, EmbeddingFile(options.embeddings, description["embeddings"]))

        def write_all() -> None:
            with progress(count) as advance:
                for row in rows:
                    interrupts.hold()  # no row is cut short
                    error = row.get("error", "")
                    output.write(row["image_id"], error, row)
                    tally.add(row)
                    if error:
                        log.error(error)
                    advance()
                    if tally.rows < count:
                        interrupts.release()

        status = until_stopped(write_all, output)
    return finish(status, tally, tally, count, tally.rows / max(time.monotonic() - began, 1e-9), resumable=False)
