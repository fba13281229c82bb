"""Records on disk are the truth: one row per task, image and method, in Parquet parts that are written atomically.

A run's folder holds `run.json` (what was run) and `records/TASK--CHUNK.parquet`. A part is written to a temporary file and
renamed, so a killed run leaves whole parts or none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from grpo_tta.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 2
"""Of `run.json` and the records. It rises when names or meanings change, so that old folders are not misread."""
TIME_AND_MEMORY = ("milliseconds", "peak_memory_mb")
SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("kind", pa.string()),
        ("image_id", pa.string()),
        ("order", pa.int64()),
        ("label", pa.int64()),
        ("method", pa.string()),
        ("protocol", pa.string()),
        ("reward", pa.string()),
        ("prediction_before", pa.int64()),
        ("prediction", pa.int64()),
        ("confidence_before", pa.float64()),
        ("confidence", pa.float64()),
        ("top5_before", pa.list_(pa.int64())),
        ("top5", pa.list_(pa.int64())),
        ("entropy_before", pa.float64()),
        ("entropy", pa.float64()),
        ("margin", pa.float64()),
        ("group", pa.list_(pa.int64())),
        ("rewards", pa.list_(pa.float64())),
        ("advantages", pa.list_(pa.float64())),
        ("updated", pa.bool_()),
        ("clipped", pa.float64()),
        ("kl", pa.float64()),
        ("forwards", pa.float64()),
        ("backwards", pa.float64()),
        ("milliseconds", pa.float64()),
        ("peak_memory_mb", pa.float64()),
        ("error", pa.string()),
        ("seed", pa.int64()),
        ("settings_hash", pa.string()),
        ("versions", pa.string()),
    ]
)


@final
@dataclass(frozen=True)
class Record:
    """One row: what one method said about one image, and what it cost.

    Policy-gradient methods fill six more columns: `group`, `rewards` and `advantages` of the first selected view, `updated`
    (whether a step was taken), `clipped` and `kl` of the last step. `milliseconds` is the method's own share of its batch,
    without the views and the frozen pass that all methods share. `forwards` counts what the method would cost alone. A row
    with an `error` has no prediction (-1).
    """

    task: str
    kind: str
    image_id: str
    order: int
    label: int
    method: str
    protocol: str
    reward: str
    seed: int
    settings_hash: str
    versions: str
    prediction_before: int = -1
    prediction: int = -1
    confidence_before: float = float("nan")
    confidence: float = float("nan")
    top5_before: list[int] = field(default_factory=list)
    top5: list[int] = field(default_factory=list)
    entropy_before: float = float("nan")
    entropy: float = float("nan")
    margin: float = float("nan")
    group: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)
    updated: bool = False
    clipped: float = float("nan")
    kl: float = float("nan")
    forwards: float = float("nan")
    backwards: float = float("nan")
    milliseconds: float = float("nan")
    peak_memory_mb: float = float("nan")
    error: str | None = None


def write_json(path: Path, content: Any) -> None:
    """Writes JSON atomically.

    Raises:
        UserError: nothing can be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path}: nothing can be written there ({error}); name another folder.") from None


def part_path(folder: Path, task: str, chunk: int) -> Path:
    return folder / "records" / f"{task}--{chunk:06d}.parquet"


def write_part(path: Path, records: Iterable[Record]) -> None:
    """Writes one part atomically."""
    table = pa.Table.from_pylist([asdict(record) for record in records], schema=SCHEMA)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    pq.write_table(table, partial)
    partial.replace(path)


def check_format(folder: Path | str, description: Mapping[str, Any]) -> None:
    """
    Args:
        description: a folder's `run.json` or `sweep.json`.

    Raises:
        UserError: another version wrote it.
    """
    if description.get("format") != FORMAT:
        raise UserError(
            f"{folder} was written by another version, where settings and columns have other names; run again into another "
            "folder, or read this one with the version that wrote it."
        )


def read_run(folder: Path) -> dict[str, Any]:
    """The `run.json` of a run.

    Raises:
        UserError: there is none, or another version wrote it.
    """
    path = Path(folder) / "run.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no run.json; name the --out folder of a run.")
    description: dict[str, Any] = json.loads(path.read_text())
    check_format(folder, description)
    return description


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Runs by their folders: a folder that holds no run itself stands for the runs one level below (one per seed)."""
    found: list[Path] = []
    for folder in map(Path, folders):
        below = sorted(path.parent for path in folder.glob("*/run.json"))
        found += [folder] if (folder / "run.json").is_file() or not below else below
    return found


def _parts(folder: Path) -> list[Path]:
    """The parts of a run that are whole."""
    return sorted((Path(folder) / "records").glob("[!.]*.parquet"))


def read_errors(folders: Sequence[Path]) -> pd.DataFrame:
    """The rows of runs that hold an error: `task`, `image_id`, `method`, `error`."""
    import pandas as pd  # here, since `predict` reads this module and no table

    parts = [part for folder in folders for part in _parts(folder)]
    columns = ["task", "image_id", "method", "error"]
    frames = [pq.read_table(part, columns=columns, filters=pc.field("error").is_valid()).to_pandas() for part in parts]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def read_records(folders: Sequence[Path]) -> pd.DataFrame:
    """All rows of one or more runs, tasks in the order in which they were run.

    Raises:
        UserError: a folder holds no records or those of another version, or two rows speak of the same task, image, method
            and seed.
    """
    import pandas as pd

    frames = []
    place: dict[str, int] = {}
    for folder in folders:
        parts = _parts(folder)
        if not parts:
            raise UserError(f"{folder}: no records; name the --out folder of a run.")
        for task in read_run(folder)["tasks"]:
            place.setdefault(task, len(place))
        frames += [pq.read_table(part, schema=SCHEMA).to_pandas() for part in parts]
    rows = pd.concat(frames, ignore_index=True)
    rows = rows.sort_values("task", key=lambda names: names.map(place).fillna(len(place)), kind="stable", ignore_index=True)
    twice = rows.duplicated(["task", "image_id", "method", "seed", "settings_hash"])
    if twice.any():
        first = rows[twice].iloc[0]
        raise UserError(f"{first.method} has two rows for {first.image_id}; the folders overlap, name each run once.")
    return rows
