"""`grpo-tta predict`: your own images, each adapted to alone. Heavy imports happen inside."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, final

import typer

from grpo_tta.cli.command import command_of
from grpo_tta.cli.config_file import without_those_of
from grpo_tta.cli.interrupts import Interrupts, Stopped
from grpo_tta.cli.options import ray_settings, settings_of, split_list
from grpo_tta.cli.predict_options import PredictOptions
from grpo_tta.cli.progress import log, logging_to_stderr, progress
from grpo_tta.errors import UserError, as_text, counted

if TYPE_CHECKING:
    from grpo_tta.classifier import GRPOTTA, Prediction
    from grpo_tta.cli.predictions import Output, Tally, Wanted
    from grpo_tta.cluster.settings import RaySettings

CLOSED_PIPE = 141
"""Exit status where the reader of standard output has gone (`| head`): that of a program that SIGPIPE ends."""


@command_of(PredictOptions)
def predict(options: PredictOptions) -> None:
    """Classify your own images, each adapted to alone.

    Rows are written as images are answered. The exit status is 1 if an image could not be read. Ctrl-C, SIGTERM and SIGHUP
    keep every answered row; the status is then 130, 143 or 129, and 141 where the reader of a pipe has gone.
    """
    if options.verbose and options.quiet:
        raise UserError("--verbose and --quiet were both given; use one of them.")
    names = _class_names(options)
    with logging_to_stderr(verbose=options.verbose, quiet=options.quiet):
        if ray := ray_settings(options, options.chunk):
            _predict_on_ray(options, names, ray)
            return
        chosen = _format(options)
        try:
            with Interrupts() as interrupts:
                status = _predict_here(options, names, chosen, interrupts)
        except Stopped as stop:  # before the first image
            log.warning("Interrupted before the first image.")
            status = stop.status
    if status:
        raise typer.Exit(status)


def _class_names(options: PredictOptions) -> list[str]:
    given = _given(options, {"labels": "labels", "labels_file": "labels-file"})
    if len(given) != 1:
        raise UserError("Name the classes by --labels or by --labels-file, and by one of them alone.")
    if "labels" in given:
        return split_list(options.labels)
    from grpo_tta.data.labels import class_names, read_labels

    assert options.labels_file is not None
    return list(class_names(read_labels(options.labels_file)))


def _format(options: PredictOptions) -> str:
    """The one output that was asked for; "" for the table."""
    given = _given(options, {"as_json": "json", "as_jsonl": "jsonl", "as_csv": "csv", "out": "out"})
    if len(given) > 1:
        flags = " and ".join(f"--{option}" for option in given.values())
        raise UserError(f"{flags} were {'both' if len(given) == 2 else 'all'} given; use one of them.")
    return next(iter(given), "")


def _given(options: PredictOptions, names: Mapping[str, str]) -> Mapping[str, str]:
    """Of options that exclude each other (field -> option) those that count."""
    given = {name: option for name, option in names.items() if getattr(options, name)}
    return without_those_of(options.config, given) if len(given) > 1 else given


def _workers(options: PredictOptions) -> int | None:
    """None where the number of cores decides."""
    if options.workers == "auto":
        return None
    if not options.workers.isdecimal():
        raise UserError(f"--workers is auto or a whole number from 0 on, not {options.workers!r}.")
    return int(options.workers)


def _assignments(options: PredictOptions) -> list[str]:
    return [*options.assignments, *(["views.full_resolution=true"] if options.full_resolution else [])]


def _predict_on_ray(options: PredictOptions, names: Sequence[str], ray: RaySettings) -> None:
    from grpo_tta.backbones.base import check_dtype
    from grpo_tta.backbones.prompts import DEFAULT_TEMPLATE
    from grpo_tta.cluster.jobs import ModelName
    from grpo_tta.cluster.ray_data import predict_on_ray

    others = options.as_json or options.as_jsonl or options.as_csv or options.files_from
    if len(options.paths) != 1 or others:
        raise UserError(
            "Ray reads one folder or one Parquet manifest, and writes Parquet; "
            "name one, without --json, --jsonl, --csv or --files-from."
        )
    if (options.top_k, options.all_probabilities, options.threshold) != (5, False, 0.0):
        raise UserError("Ray writes the top 5; leave out --top-k, --all-probabilities and --threshold.")
    if _workers(options) is not None:
        raise UserError("Each of Ray's actors reads its own images; leave out --workers.")
    out = options.out or "runs/predict"
    model = ModelName(options.model, options.device, options.download, check_dtype(options.dtype))
    arguments = {
        "templates": tuple(options.template or (DEFAULT_TEMPLATE,)),
        "settings": settings_of(options.preset, _assignments(options)),
        "seed": options.seed,
        "workers": 0,
    }
    rows = predict_on_ray(model, names, options.paths[0], out, options.batch, arguments, ray, log.warning)
    typer.echo(f"{counted(rows, 'answer')} in {out}/predictions (Parquet; a row with an `error` has no answer).")


def _predict_here(options: PredictOptions, names: Sequence[str], chosen: str, interrupts: Interrupts) -> int:
    """Answers all images and returns the exit status."""
    from grpo_tta.backbones.base import check_dtype
    from grpo_tta.backbones.prompts import DEFAULT_TEMPLATE
    from grpo_tta.classifier import GRPOTTA
    from grpo_tta.cli.inputs import find_inputs
    from grpo_tta.cli.predictions import FolderOutput, Wanted

    wanted = Wanted(options.top_k, options.all_probabilities, options.threshold)
    classifier = GRPOTTA(
        options.model,
        names,
        templates=options.template or DEFAULT_TEMPLATE,
        settings=settings_of(options.preset, _assignments(options)),
        seed=options.seed,
        device=options.device,
        batch=options.batch,
        download=options.download,
        dtype=check_dtype(options.dtype),
        workers=_workers(options),
    )
    backbone = classifier.backbone
    log.debug(f"Model {backbone.name} ({backbone.fingerprint}) on {backbone.device}, {options.dtype}.")
    found = find_inputs(options.paths, options.files_from, log.warning)
    log.debug(f"{counted(len(found), 'image')} and {counted(len(classifier.labels), 'label')}.")
    output = _open_output(options, chosen, classifier, wanted)
    if isinstance(output, FolderOutput):
        left = [path for path in found if as_text(str(path)) not in output.done]
        if len(left) < len(found):
            log.info(f"{options.out}: {counted(len(found) - len(left), 'image')} of {len(found):,} answered before.")
        found = left
    run = _Run(classifier, found, options.batch, wanted, output)
    status = run.answer(interrupts)
    total = output.tally if isinstance(output, FolderOutput) else run.tally
    if status == CLOSED_PIPE:
        return status  # quietly, as the reader wanted no more
    if run.tally.rows < len(found):
        again = " The same command resumes." if isinstance(output, FolderOutput) else ""
        log.warning(f"Interrupted after {run.tally.rows:,} of {len(found):,} images.{again}")
    log.info(total.summary(run.per_second if found else None))
    return status or (1 if total.unreadable else 0)


def _open_output(options: PredictOptions, chosen: str, classifier: GRPOTTA, wanted: Wanted) -> Output:
    from grpo_tta.cli.predictions import CsvOutput, FolderOutput, JsonLinesOutput, JsonOutput, TableOutput, describe

    if chosen == "out":
        return FolderOutput(Path(options.out), describe(classifier, wanted, options.dtype), options.chunk)
    if chosen == "as_csv":
        return CsvOutput()
    if chosen == "as_jsonl":
        return JsonLinesOutput()
    if chosen == "as_json":
        return JsonOutput(options.model, classifier.labels)
    return TableOutput(options.model)


@final
class _Run:
    """One pass over the images.

    Attributes:
        tally: of the rows written.
        per_second: images answered.
    """

    def __init__(self, classifier: GRPOTTA, paths: Sequence[Path], batch: int, wanted: Wanted, output: Output) -> None:
        from grpo_tta.cli.predictions import Tally

        self._classifier, self._paths, self._batch, self._wanted, self._output = classifier, paths, batch, wanted, output
        self.tally: Tally = Tally()
        self.per_second = 0.0

    def answer(self, interrupts: Interrupts) -> int:
        """Writes a row per image in the order of the images; returns the exit status of an interruption, or 0."""
        began, status = time.monotonic(), 0
        try:
            try:
                self._answer_all(interrupts)
            except (Stopped, KeyboardInterrupt) as stop:
                status = stop.status if isinstance(stop, Stopped) else 130
            finally:
                self._output.close()
        except BrokenPipeError:
            status = CLOSED_PIPE
            _give_up_standard_output()
        except OSError as error:  # those of an image are a row
            _give_up_standard_output()
            raise UserError(f"The answers cannot be written ({error.strerror}); make room, or name another place.") from None
        self.per_second = self.tally.rows / max(time.monotonic() - began, 1e-9)
        return status

    def _answer_all(self, interrupts: Interrupts) -> None:
        from grpo_tta.classifier import classify

        paths, received, next_row = self._paths, 0, 0
        # unreadable ones of a batch are known before those that stand in front of them are answered
        waiting: dict[int, Prediction | str] = {}
        with progress(len(paths)) as advance:
            for number, answer in classify(self._classifier, paths.__getitem__, len(paths), self._batch):
                interrupts.hold()  # no row is cut short
                received += 1
                waiting[number] = answer
                while next_row in waiting:
                    self._write(next_row, waiting.pop(next_row))
                    next_row += 1
                    advance()
                # After an answer those of its whole batch are at hand. They are written before a signal counts. After the
                # last row all is done but for the orderly end.
                if received < len(paths) and (isinstance(answer, str) or received % self._batch == 0):
                    interrupts.release()

    def _write(self, number: int, answer: Prediction | str) -> None:
        path = self._paths[number]
        row = self._wanted.row(path, answer)
        self._output.write(path, answer, row)
        self.tally.add(row)
        if isinstance(answer, str):
            log.error(answer)


def _give_up_standard_output() -> None:
    """Python would complain at its end of what it could not write."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
