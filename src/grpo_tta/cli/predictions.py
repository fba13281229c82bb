"""Where the answers of `grpo-tta predict` go, row by row: CSV, JSON lines, one JSON document, a table, a folder of Parquet.

Only the document and the table hold rows until the end, and the table only what it shows.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

from grpo_tta.bench.embeddings import EmbeddingFile, check_file, column
from grpo_tta.bench.pace import show_rate
from grpo_tta.bench.predictions import ALL_PROBABILITIES, SCHEMA, Wanted
from grpo_tta.bench.records import FORMAT, read_run, write_json
from grpo_tta.bench.runs import check_same, versions
from grpo_tta.classifier import GRPOTTA, Prediction
from grpo_tta.cli.options import make_console
from grpo_tta.cli.progress import log
from grpo_tta.config.serialise import to_plain
from grpo_tta.errors import UserError, counted
from grpo_tta.images.remote import Place

PART_SECONDS = 60.0
"""Slow models: a part is written after this time even if it is not full."""


@final
@dataclass
class Tally:
    """Counts for the summary at the end."""

    answered: int = 0
    unreadable: int = 0
    changed: int = 0
    abstained: int = 0
    forwards: float = 0.0
    backwards: float = 0.0

    def add(self, row: Mapping[str, Any]) -> None:
        if row.get("error"):
            self.unreadable += 1
            return
        self.answered += 1
        self.abstained += row["abstained"]
        self.changed += not row["abstained"] and row["label"] != row["label_before"]
        self.forwards += row["forwards"]
        self.backwards += row["backwards"]

    @property
    def rows(self) -> int:
        return self.answered + self.unreadable

    def per_image(self) -> tuple[float, float]:
        """Forward and backward passes."""
        answered = max(1, self.answered)
        return self.forwards / answered, self.backwards / answered

    def summary(self, per_second: float | None) -> str:
        """`48,912 answered, 88 unreadable, 3,104 changed, 12.3 per second, 7.1 forward passes per image`.

        Args:
            per_second: None where nothing was left to do.
        """
        parts = [f"{self.answered:,} answered", f"{self.unreadable:,} unreadable", f"{self.changed:,} changed"]
        if self.abstained:
            parts.append(f"{self.abstained:,} abstained")
        if per_second is not None:
            parts.append(show_rate(per_second))
        return ", ".join([*parts, f"{self.per_image()[0]:.1f} forward passes per image"])


class Output(Protocol):
    """Where rows go."""

    def write(self, path: Place, answer: Prediction | str, row: Mapping[str, Any]) -> None:
        """One image: its answer or error, and the row made of it."""

    def close(self) -> None:
        """Writes what was held. Called once, after an interruption too."""


@final
class CsvOutput:
    """A row per image on standard output."""

    def __init__(self) -> None:
        self._has_heading = False

    def _heading(self) -> None:
        if not self._has_heading:
            self._has_heading = True
            self._line("path", "label", "probability", "label_before", "probability_before", "error", "abstained")

    def _line(self, *cells: str) -> None:
        csv.writer(sys.stdout, lineterminator="\n").writerow(cells)
        sys.stdout.flush()

    def write(self, path: Place, answer: Prediction | str, row: Mapping[str, Any]) -> None:
        self._heading()
        if "error" in row:
            self._line(row["image_id"], "", "", "", "", row["error"], "")
            return
        after, before = (f"{row[name]:.6g}" for name in ("probability", "probability_before"))
        abstained = "true" if row["abstained"] else "false"
        self._line(row["image_id"], row["label"], after, row["label_before"], before, "", abstained)

    def close(self) -> None:
        self._heading()


@final
@dataclass
class JsonLinesOutput:
    """An object per image on standard output."""

    labels: Sequence[str]

    def write(self, path: Place, answer: Prediction | str, row: Mapping[str, Any]) -> None:
        content = {"path": row["image_id"], **{key: value for key, value in row.items() if key != "image_id"}}
        if "probabilities" in row:  # with their labels: a line stands alone
            content["probabilities"] = dict(zip(self.labels, row["probabilities"], strict=True))
        sys.stdout.write(json.dumps(content) + "\n")
        sys.stdout.flush()

    def close(self) -> None:
        pass


@final
@dataclass
class JsonOutput:
    """One document at the end."""

    model: str
    labels: Sequence[str]
    _predictions: list[dict[str, Any]] = field(default_factory=list)
    _errors: list[dict[str, str]] = field(default_factory=list)

    def write(self, path: Place, answer: Prediction | str, row: Mapping[str, Any]) -> None:
        if isinstance(answer, str):
            self._errors.append({"path": str(path), "error": answer})
        else:
            changed = {"label": row["label"], "abstained": row["abstained"]}
            self._predictions.append({"path": str(path), **answer.plain(), **changed})

    def close(self) -> None:
        content = {
            "model": self.model,
            "labels": list(self.labels),
            "predictions": self._predictions,
            "errors": self._errors,
        }
        typer.echo(json.dumps(content, indent=2))


@final
@dataclass
class TableOutput:
    """A table for people, at the end; it holds five short cells per image."""

    model: str
    _tally: Tally = field(default_factory=Tally)
    _rows: list[tuple[str, str, float, str, float]] = field(default_factory=list)

    def write(self, path: Place, answer: Prediction | str, row: Mapping[str, Any]) -> None:
        self._tally.add(row)
        if "error" not in row:
            before = row["label_before"], row["probability_before"]
            self._rows.append((row["image_id"], row["label"], row["probability"], *before))

    def close(self) -> None:
        from rich.text import Text

        from grpo_tta.report.columns import Column, FittedTable

        if not self._rows:
            return
        console = make_console()
        columns = [
            Column("image", 16, key=True),
            Column("label", 12),
            Column("probability"),
            Column("zero-shot label", 12, style="dim"),
            Column("zero-shot probability", style="dim"),
        ]
        table = FittedTable(columns)
        has_changes = False
        for name, label, after, label_before, before in self._rows:
            is_changed = label not in ("", label_before)
            has_changes |= is_changed
            shown = Text(f"* {label}" if is_changed else label, "bold" if is_changed else "")
            percents = f"{100 * after:.1f} %", f"{100 * before:.1f} %"
            table.add_row(name, shown if label else Text("(abstained)", "dim"), percents[0], label_before, percents[1])
        table.print(console)
        if has_changes:
            console.print(Text("* changed: not the zero-shot label", "dim"))
        forwards, backwards = self._tally.per_image()
        note = f"Model {self.model}; {forwards:.0f} forward and {backwards:.0f} backward passes per image."
        if self.model == "nano-clip":
            note += " It knows drawings alone: for photographs name another --model (photo-clip, ViT-B-16/openai, ...)."
        console.print(Text(note, "dim"))


@final
class WithEmbeddings:
    """Another output, and a file of the images' embeddings beside it."""

    def __init__(self, output: Output, file: EmbeddingFile) -> None:
        self._output, self._file = output, file

    def write(self, path: Place, answer: Prediction | str, row: Mapping[str, Any]) -> None:
        embedding = row.get("embedding")  # of a cluster
        if isinstance(answer, Prediction) and answer.embedding is not None:
            embedding = answer.embedding.numpy()
        if embedding is not None:
            self._file.add(row["image_id"], np.asarray(embedding, dtype=np.float32))
        self._output.write(path, answer, {name: value for name, value in row.items() if name != "embedding"})

    def close(self) -> None:
        try:
            self._output.close()
        finally:
            self._file.close()


@final
class FolderOutput:
    """Parquet parts in `OUT/predictions`, each written whole or not at all, and `OUT/run.json`, which binds them.

    Attributes:
        folder: OUT.
        done: images that had a row before.
        tally: of all rows, those of earlier runs among them.
    """

    def __init__(
        self,
        folder: Path,
        description: Mapping[str, Any],
        rows: int,
        clock: Callable[[], float] = time.monotonic,
        *,
        embeddings: Path | None = None,
        width: int = 0,
    ) -> None:
        """
        Args:
            folder: a new one, or one that the same command has begun.
            description: what the answers depend on (`describe`).
            rows: of a part.
            embeddings: a file that is to hold the embeddings of all rows, those of earlier runs among them. They stand in the
                parts too, so that none is lost or doubled.
            width: D of the embeddings.

        Raises:
            UserError: the folder holds another run, or nothing can be written there.
        """
        if rows < 1:
            raise UserError("--chunk must be at least 1.")
        self.folder = folder
        self._parts, self._size, self._clock = folder / "predictions", rows, clock
        self._schema = SCHEMA.append(ALL_PROBABILITIES) if description["all_probabilities"] else SCHEMA
        self._embeddings = None if embeddings is None else check_file(embeddings)
        self._width = width
        if embeddings is not None:
            self._schema = self._schema.append(column(width))
        _open_folder(folder, description)
        self._lock = _lock(folder)
        self._rows: list[Mapping[str, Any]] = []
        self._began = clock()
        self._number = 0
        self.done: set[str] = set()
        self.tally = Tally()
        columns = [name for name in SCHEMA.names if not name.startswith(("top_", "probability"))]
        for part in sorted(self._parts.glob("part-*.parquet")):
            for row in pq.read_table(part, columns=columns).to_pylist():
                self.done.add(row["image_id"])
                self.tally.add(row)
            self._number = int(part.stem.removeprefix("part-")) + 1

    @property
    def waiting(self) -> int:
        """Rows that are not on disk yet."""
        return len(self._rows)

    def write(self, path: Place, answer: Prediction | str, row: Mapping[str, Any]) -> None:
        if not self._rows:
            self._began = self._clock()
        if self._embeddings is not None and isinstance(answer, Prediction) and answer.embedding is not None:
            row = {**row, "embedding": answer.embedding.tolist()}
        self._rows.append(row)
        self.tally.add(row)
        if len(self._rows) >= self._size or self._clock() - self._began >= PART_SECONDS:
            self._flush()

    def close(self) -> None:
        """
        Raises:
            UserError: nothing can be written there.
        """
        try:
            self._flush()
            if self._embeddings is not None:
                self._gather(EmbeddingFile(self._embeddings, self._width))
        finally:
            if self._lock is not None:
                self._lock.close()

    def _gather(self, file: EmbeddingFile) -> None:
        for part in sorted(self._parts.glob("part-*.parquet")):
            table = pq.read_table(part, columns=["image_id", "embedding"])
            for some in table.filter(pc.is_valid(table["embedding"])).to_batches():
                file.add_column(some["image_id"], some["embedding"])
        file.close()

    def _flush(self) -> None:
        """Writes a part.

        Raises:
            UserError: nothing can be written there.
        """
        if not self._rows:
            return
        path = self._parts / f"part-{self._number:06d}.parquet"
        partial = path.with_name(f".{path.name}.partial")
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(self._rows, schema=self._schema), partial, compression="zstd")
            partial.replace(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error}); make room there, and the same command resumes.") from None
        log.debug(f"{path}: {counted(len(self._rows), 'row')} written.")
        self._rows, self._number = [], self._number + 1


def _lock(folder: Path) -> IO[bytes] | None:
    """Keeps two processes from answering the same images; free again when the file is closed, by a kill too.

    Raises:
        UserError: another process has it.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    file = (folder / ".lock").open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UserError(f"{folder}: another process writes there; wait for it, or name another --out.") from None
    except OSError:  # a file system without locks
        file.close()
        return None
    return file


def open_standard_output(chosen: str, model: str, labels: Sequence[str]) -> Output:
    """
    Args:
        chosen: field of the options; "" for the table.
        model: its name.
    """
    if chosen == "as_csv":
        return CsvOutput()
    if chosen == "as_jsonl":
        return JsonLinesOutput(labels)
    if chosen == "as_json":
        return JsonOutput(model, labels)
    return TableOutput(model)


def describe(classifier: GRPOTTA, wanted: Wanted, *, width: int) -> dict[str, Any]:
    """What the rows of a folder depend on, but for the images: these may become more.

    Args:
        width: D of the embeddings; 0 without them.
    """
    return {
        "format": FORMAT,
        "engine": "local",
        "model": classifier.backbone.name,
        "fingerprint": classifier.backbone.fingerprint,
        "device": str(classifier.backbone.device),
        "dtype": str(classifier.backbone.dtype).removeprefix("torch."),
        "labels": list(classifier.labels),
        "templates": list(classifier.policy.prompts.templates),
        "seed": classifier.seed,
        "settings": to_plain(classifier.settings),
        "embeddings": width,
        **wanted.describe(),
    }


def _open_folder(folder: Path, description: Mapping[str, Any]) -> None:
    path = folder / "run.json"
    wanted: dict[str, Any] = json.loads(json.dumps(description))
    if path.is_file():
        check_same("run", folder, read_run(folder), wanted)
    elif (folder / "predictions").exists():
        raise UserError(f"{folder} holds predictions without a run.json; name another --out.")
    else:
        write_json(path, wanted | {"versions": versions()})
