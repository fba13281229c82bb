"""`grpo-tta predict`: your own images, each adapted to alone. Heavy imports happen inside."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, final

import typer

from grpo_tta.cli.command import command_of
from grpo_tta.cli.config_file import without_those_of
from grpo_tta.cli.ending import finish, until_stopped
from grpo_tta.cli.interrupts import Interrupts, Stopped
from grpo_tta.cli.loading import loading
from grpo_tta.cli.options import class_names_of, precision_of, ray_settings, read_batch, settings_of, split_list
from grpo_tta.cli.predict_options import PredictOptions, assignments_of, workers_of
from grpo_tta.cli.progress import log, logging_to_stderr, progress
from grpo_tta.errors import UserError, as_text, counted

if TYPE_CHECKING:
    from grpo_tta.bench.predictions import Wanted
    from grpo_tta.classifier import GRPOTTA, Prediction
    from grpo_tta.cli.predictions import Output, Tally
    from grpo_tta.images.remote import Place
    from grpo_tta.method.online_settings import StreamSettings

Labels = Sequence[str] | Mapping[str, str]
"""Class names, or label -> class name."""


@command_of(PredictOptions)
def predict(options: PredictOptions) -> None:
    """Classify your own images, each adapted to alone.

    Rows are written as images are answered. The exit status is 1 if an image could not be read. Ctrl-C, SIGTERM and SIGHUP
    keep every answered row; the status is then 130, 143 or 129, and 141 where the reader of a pipe has gone.
    """
    if options.verbose and options.quiet:
        raise UserError("--verbose and --quiet were both given; use one of them.")
    if options.state is not None and not options.online:
        raise UserError("--state is that of a stream; add --online.")
    if options.online and options.engine == "ray":
        raise UserError("Ray answers images in no order, and a stream depends on it; leave out --online or --engine ray.")
    names = _class_names(options)
    with logging_to_stderr(verbose=options.verbose, quiet=options.quiet):
        ray, chosen = ray_settings(options, options.chunk), _format(options)
        try:
            if ray:
                from grpo_tta.cli.predict_on_ray import predict_by_ray

                status = predict_by_ray(options, names, chosen, ray)
            else:
                with Interrupts() as interrupts:
                    status = _predict_here(options, names, chosen, interrupts)
        except Stopped as stop:  # before the first image
            log.warning("Interrupted before the first image.")
            status = stop.status
    if status:
        raise typer.Exit(status)


def _class_names(options: PredictOptions) -> Labels:
    given = _given(options, {"labels": "labels", "labels_file": "labels-file"})
    if len(given) != 1:
        raise UserError("Name the classes by --labels or by --labels-file, and by one of them alone.")
    if "labels" in given:
        return split_list(options.labels)
    from grpo_tta.data.labels import class_names, names_may_repeat, number_repeated, read_labels

    assert options.labels_file is not None
    names = class_names(read_labels(options.labels_file))
    return number_repeated(names) if names_may_repeat(names) else names


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


def _predict_here(options: PredictOptions, names: Labels, chosen: str, interrupts: Interrupts) -> int:
    """Answers all images and returns the exit status."""
    with loading():
        from grpo_tta.bench.predictions import Wanted
        from grpo_tta.cli.inputs import find_inputs
        from grpo_tta.cli.predictions import FolderOutput

        wanted = Wanted(options.top_k, options.all_probabilities, options.threshold)
        stream = _stream_settings(options)
        classifier = _load(options, names, stream)
    backbone = classifier.backbone
    log.debug(
        f"Model {backbone.name} ({backbone.fingerprint}) on {backbone.device}, {str(backbone.dtype).removeprefix('torch.')}."
    )
    found = find_inputs(options.paths, options.files_from, log.warning)
    log.debug(f"{counted(len(found), 'image')} and {counted(len(classifier.labels), 'label')}.")
    output = _open_output(options, chosen, classifier, wanted, stream)
    folder = output if isinstance(output, FolderOutput) else None
    left = found if folder is None else [path for path in found if as_text(str(path)) not in folder.done]
    if len(left) < len(found):
        log.info(f"{options.out}: {counted(len(found) - len(left), 'image')} of {len(found):,} answered before.")
    source: _Source = _Episodes(classifier, left, classifier.batch)
    if stream is not None:
        from grpo_tta.cli.predict_online import OnlineRun

        try:
            source = OnlineRun(classifier, stream, found, options.state, folder)
        except UserError:
            if folder is not None:
                folder.close()
            raise
    run = _Run(source, len(left), wanted, output)
    status = run.answer(interrupts)
    total = run.tally if folder is None else folder.tally
    return finish(status, run.tally, total, len(left), run.per_second, resumable=folder is not None)


def _load(options: PredictOptions, names: Labels, stream: StreamSettings | None) -> GRPOTTA:
    """The model over these classes."""
    from grpo_tta.backbones.base import load_backbone
    from grpo_tta.backbones.hardware import set_threads
    from grpo_tta.backbones.prompts import DEFAULT_TEMPLATE
    from grpo_tta.bench.embeddings import check_file
    from grpo_tta.classifier import GRPOTTA

    set_threads(options.threads)
    if options.embeddings is not None:
        check_file(options.embeddings)  # before the model is loaded
    classifier = GRPOTTA(
        load_backbone(
            options.model,
            device=options.device,
            download=options.download,
            dtype=precision_of(options.dtype, options.device, log.info),
            weights=options.weights,
            class_names=class_names_of(options.class_names),
        ),
        names,
        templates=options.template or DEFAULT_TEMPLATE,
        settings="default" if stream else settings_of(options.preset, assignments_of(options)),
        seed=options.seed,
        batch=read_batch(options.batch),
        workers=workers_of(options),
    )
    if options.batch == "auto" and stream is None:
        log.info(f"--batch auto: {counted(classifier.batch, 'image')} in flight.")
    return classifier if options.embeddings is None else classifier.with_embeddings()


def _open_output(
    options: PredictOptions, chosen: str, classifier: GRPOTTA, wanted: Wanted, stream: StreamSettings | None
) -> Output:
    from grpo_tta.bench.embeddings import EmbeddingFile
    from grpo_tta.cli.predictions import FolderOutput, WithEmbeddings, describe, open_standard_output
    from grpo_tta.config.serialise import to_plain

    file, width = options.embeddings, classifier.policy.text_features.shape[1]
    if chosen == "out":
        description = describe(classifier, wanted, width=0 if file is None else width)
        if stream is not None:
            description |= {"settings": to_plain(stream)}
        return FolderOutput(Path(options.out), description, options.chunk, embeddings=file, width=width)
    output = open_standard_output(chosen, classifier.backbone.name, classifier.labels)
    return output if file is None else WithEmbeddings(output, EmbeddingFile(file, width))


def _stream_settings(options: PredictOptions) -> StreamSettings | None:
    """None where each image is adapted to alone."""
    if not options.online:
        return None
    from grpo_tta.cli.predict_online import stream_settings

    return stream_settings(options)


class _Source(Protocol):
    """Where the answers of a run come from."""

    def answers(self) -> Iterator[tuple[Place, Prediction | str]]:
        """Each image that is to be answered, in order, with its answer or error."""

    def written(self, number: int, answer: Prediction | str) -> bool:
        """To be called when a row is written, the first with 1. Returns whether a signal may count now."""

    def finish(self) -> None:
        """To be called when the output is closed, after an interruption too."""


@final
class _Episodes:
    """Each image adapted to alone."""

    def __init__(self, classifier: GRPOTTA, paths: Sequence[Place], batch: int) -> None:
        self._classifier, self._paths, self._batch = classifier, paths, batch

    def answers(self) -> Iterator[tuple[Place, Prediction | str]]:
        from grpo_tta.classifier import classify
        from grpo_tta.images.inputs import ImageLike
        from grpo_tta.images.remote import place_of

        def load(number: int) -> ImageLike:
            return place_of(self._paths[number])

        for number, answer in classify(self._classifier, load, len(self._paths), self._batch):
            yield self._paths[number], answer

    def written(self, number: int, answer: Prediction | str) -> bool:
        # After an answer those of its whole batch are at hand. They are written before a signal counts.
        return isinstance(answer, str) or number % self._batch == 0

    def finish(self) -> None:
        pass


@final
class _Run:
    """One pass over the images.

    Attributes:
        tally: of the rows written.
        per_second: images answered.
    """

    def __init__(self, source: _Source, count: int, wanted: Wanted, output: Output) -> None:
        """`count` is how many images the source answers."""
        from grpo_tta.cli.predictions import Tally

        self._source, self._count, self._wanted, self._output = source, count, wanted, output
        self.tally: Tally = Tally()
        self.per_second = 0.0

    def answer(self, interrupts: Interrupts) -> int:
        """Writes a row per image in the order of the images; returns the exit status of an interruption, or 0."""
        began = time.monotonic()
        status = until_stopped(lambda: self._answer_all(interrupts), self._output)
        self._source.finish()
        self.per_second = self.tally.rows / max(time.monotonic() - began, 1e-9)
        return status

    def _answer_all(self, interrupts: Interrupts) -> None:
        with progress(self._count) as advance:
            for number, (path, answer) in enumerate(self._source.answers(), 1):
                interrupts.hold()  # no row is cut short
                self._write(path, answer)
                may_stop = self._source.written(number, answer)
                advance()
                # After the last row all is done but for the orderly end.
                if number < self._count and may_stop:
                    interrupts.release()

    def _write(self, path: Place, answer: Prediction | str) -> None:
        row = self._wanted.row(str(path), answer)
        self._output.write(path, answer, row)
        self.tally.add(row)
        if isinstance(answer, str):
            log.error(answer)
