"""The photos suite: real photographs, shifted in real ways, for photo-clip.

Reads `tiny-imagenet-val.parquet` and `cifar10-test.parquet` (columns image_id, label, image) and
`tiny-imagenet-classes.json` (WordNet id -> names, the usual one first) from a folder that the user names. The tuning split
is made of the photographs of the `-train` files that `recipes/photo_clip` holds out: the last five of every class of
Tiny-ImageNet, the last hundred of CIFAR-10.

Every task has photographs of its own order, fixed by its name, so that the first N are a fair sample and two tasks seldom
share them. Corruptions are those of ImageNet-C, whose severities are set for 224 pixels: a photograph is enlarged to 224,
corrupted and brought back, which for noise and blur comes near the milder severities that CIFAR-10-C uses at its own size.
`pixelate` and `jpeg_compression` are the exception: enlarging first would leave next to nothing of them, so they are made
at the photograph's size.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from grpo_tta.backbones.prompts import DEFAULT_TEMPLATE
from grpo_tta.data import renditions
from grpo_tta.data.public.corrupted import CORRUPTIONS, corrupt
from grpo_tta.data.tasks import Kind, Task, check_limit, check_split, suite_source
from grpo_tta.errors import UserError
from grpo_tta.images.read import read_image

Which = Literal["tiny", "cifar"]
FILES: dict[Which, str] = {"tiny": "tiny-imagenet", "cifar": "cifar10"}
REPORTING: dict[Which, str] = {"tiny": "val", "cifar": "test"}
HELD_OUT: dict[Which, int] = {"tiny": 5, "cifar": 100}
SEVERITIES = (1, 3, 5)
ENSEMBLE = (DEFAULT_TEMPLATE, "a picture of a {}.", "an image of a {}.", "a good photo of a {}.", "a bad photo of a {}.",
            "a close-up photo of a {}.", "a photo of the {}.")  # fmt: skip
SHARED: dict[str, tuple[str, tuple[str, ...]]] = {
    "automobile": ("sports car", ("n04285008", "n03100240", "n02814533", "n03670208")),
    "bird": ("goose", ("n01855672", "n02002724", "n02058221")),
    "cat": ("tabby", ("n02123045", "n02123394", "n02124075")),
    "dog": ("golden retriever", ("n02099601", "n02106662", "n02085620", "n02099712", "n02094433", "n02113799")),
    "frog": ("bullfrog", ("n01641577", "n01644900")),
    "ship": ("lifeboat", ("n03662601",)),
    "truck": ("moving van", ("n03796401",)),
}
"""Class of CIFAR-10 -> the name of one class of Tiny-ImageNet that it contains, and all such classes (WordNet ids)."""
_ENLARGED = 224
_AT_OWN_SIZE = ("pixelate", "jpeg_compression")
_RUN = 10  # photographs of one class that follow each other in the correlated stream

Change = Callable[[Image.Image, str], Image.Image]
"""(photograph, its id) -> the photograph that the methods get."""


@final
@dataclass(frozen=True)
class Photos:
    """Encoded photographs of one file, in memory: a task made of them can be sent to another process.

    Attributes:
        ids, labels, encoded: of each photograph, in the order of the file.
    """

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    encoded: tuple[bytes, ...]

    def some(self, rows: Sequence[int]) -> Photos:
        """Those of these rows, in their order."""
        return Photos(
            tuple(self.ids[i] for i in rows), tuple(self.labels[i] for i in rows), tuple(self.encoded[i] for i in rows)
        )

    def image(self, row: int) -> Image.Image:
        """
        Raises:
            UserError: the photograph is damaged.
        """
        return read_image(io.BytesIO(self.encoded[row]), self.ids[row])


def read_photos(root: Path, which: Which, split: str) -> Photos:
    """
    Raises:
        UserError: the file is missing, not readable, or lacks a column.
    """
    if split == "reporting":
        return read_file(root / f"{FILES[which]}-{REPORTING[which]}.parquet")
    return read_file(root / f"{FILES[which]}-train.parquet", lambda labels: held_out(labels, HELD_OUT[which]))


def read_file(file: Path, choose: Callable[[Sequence[str]], np.ndarray] | None = None) -> Photos:
    """
    Args:
        file: Parquet with the columns image_id, label and image.
        choose: labels of all rows -> the rows to keep; None for all.

    Raises:
        UserError: the file is missing, not readable, or lacks a column.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file; --photos-root names the folder that holds it (see docs/photos.md).")
    try:
        table = pq.read_table(file, columns=["image_id", "label", "image"])
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not a readable Parquet file with image_id, label and image ({error}).") from None
    labels = [str(v) for v in table["label"].to_pylist()]
    rows = np.arange(len(labels)) if choose is None else choose(labels)
    table = table.take(rows)
    encoded = tuple(cell or b"" for cell in table["image"].to_pylist())
    return Photos(tuple(str(v) for v in table["image_id"].to_pylist()), tuple(labels[i] for i in rows), encoded)


def held_out(labels: Sequence[str], per_class: int) -> np.ndarray:
    """Rows of the last `per_class` photographs of every class, ascending: what the training recipe does not train on."""
    seen: dict[str, int] = {}
    rows = []
    for row in range(len(labels) - 1, -1, -1):
        seen[labels[row]] = seen.get(labels[row], 0) + 1
        if seen[labels[row]] <= per_class:
            rows.append(row)
    return np.array(rows[::-1], dtype=int)


def names_of_tasks() -> dict[str, Kind]:
    """All tasks of the suite and their kinds, in the order of the tables."""
    tasks: dict[str, Kind] = {"tiny": "source", "cifar": "source"}
    tasks |= {f"tiny-{name}-{severity}": "shifted" for name in CORRUPTIONS for severity in SEVERITIES}
    tasks |= {f"tiny-{name}": "shifted" for name in ("sketch", "posterised", "styled")}
    tasks |= {"tiny-as-cifar": "cross-domain", "cifar-as-tiny": "cross-domain"}
    tasks |= {"tiny-stream-zipf": "stream", "tiny-stream-correlated": "stream"}
    tasks |= {f"cifar-{name}-{severity}": "shifted" for name in CORRUPTIONS for severity in SEVERITIES}
    return tasks


def default_tasks() -> list[str]:
    """All but the streams and the corrupted CIFAR-10, which has been looked at while the method was designed."""
    return [
        name
        for name, kind in names_of_tasks().items()
        if kind != "stream" and not (name.startswith("cifar-") and kind == "shifted")
    ]


def photo_tasks(
    root: Path | None, names: Sequence[str] | None = None, split: str = "reporting", limit: int | None = None
) -> list[Task]:
    """Tasks of the suite: `default_tasks` by default, all of them for `["all"]`; cut to the first `limit` photographs.

    Raises:
        UserError: no root, unknown task or split, a limit below one, or files that are missing or not readable.
    """
    if root is None:
        raise UserError("--suite photos needs --photos-root, the folder that holds the photographs (see docs/photos.md).")
    check_split(split)
    check_limit(limit)
    known = names_of_tasks()
    wanted = default_tasks() if names is None else list(known) if list(names) == ["all"] else list(dict.fromkeys(names))
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        cause = f"Unknown task {unknown[0]!r}" if unknown else "No task was named"
        raise UserError(f"{cause}; choose all, {', '.join(default_tasks())}, tiny-stream-zipf, tiny-stream-correlated or "
                        "cifar-CORRUPTION-SEVERITY.")  # fmt: skip
    photos: dict[Which, Photos] = {
        which: read_photos(root, which, split) for which in FILES if any(name.startswith(which) for name in wanted)
    }
    of_tiny = tiny_names(root) if "tiny" in photos else {}
    return [_task(name, known[name], photos[_which(name)], of_tiny, split, limit) for name in wanted]


def _which(task: str) -> Which:
    return "tiny" if task.startswith("tiny") else "cifar"


def tiny_names(root: Path) -> dict[str, str]:
    """WordNet id -> the usual name, of the classes of Tiny-ImageNet.

    Raises:
        UserError: the file is missing or damaged.
    """
    file = root / "tiny-imagenet-classes.json"
    try:
        return {str(label): str(names[0]) for label, names in json.loads(file.read_text()).items()}
    except (OSError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"{file}: not a readable object of label and names ({error}).") from None


def _task(name: str, kind: Kind, photos: Photos, of_tiny: dict[str, str], split: str, limit: int | None) -> Task:
    named = of_tiny if _which(name) == "tiny" else {label: label for label in sorted(set(photos.labels))}
    if name == "tiny-as-cifar":
        named = {wordnet: cifar for cifar, (_, ids) in SHARED.items() for wordnet in ids}
    elif name == "cifar-as-tiny":
        named = {cifar: tiny for cifar, (tiny, _) in SHARED.items()}
    elif missing := sorted(set(photos.labels) - set(named)):
        raise UserError(f"tiny-imagenet-classes.json: {missing[0]!r} is not in it; bring the photographs' own file.")
    classes = tuple(dict.fromkeys(named.values()))
    rows = _order(name, split, photos.labels, set(named))[:limit]
    number_of = {label: classes.index(shown) for label, shown in named.items()}
    change = _change(name, photos)

    def load(number: int) -> tuple[Image.Image, int]:
        row = rows[number]
        return change(photos.image(row), photos.ids[row]), number_of[photos.labels[row]]

    ids = [f"photos/{name}/{split}/{photos.ids[row]}" for row in rows]
    source = suite_source("photos", name, split, limit)
    return Task(name, kind, classes, DEFAULT_TEMPLATE, ENSEMBLE, ids, load, ordered=kind == "stream", source=source)


def _order(name: str, split: str, labels: Sequence[str], known: set[str]) -> list[int]:
    """Rows of a task's photographs in its order, each at most once."""
    rng = np.random.default_rng([zlib.crc32(name.encode()), zlib.crc32(split.encode())])
    rows = [int(row) for row in rng.permutation(len(labels)) if labels[row] in known]
    if not name.startswith("tiny-stream-"):
        return rows
    by_class: dict[str, list[int]] = {}
    for row in rows:
        by_class.setdefault(labels[row], []).append(row)
    if name == "tiny-stream-zipf":  # the k-th class has 1/k of the photographs of the first
        kept = [row for rank, of_class in enumerate(by_class.values(), 1) for row in of_class[: max(1, len(of_class) // rank)]]
        return [kept[i] for i in rng.permutation(len(kept))]
    turns = max(len(of_class) for of_class in by_class.values())
    return [r for at in range(0, turns, _RUN) for of_class in by_class.values() for r in of_class[at : at + _RUN]]


def _change(name: str, photos: Photos) -> Change:
    _, _, kind = name.partition("-")
    if kind.startswith("stream-"):
        kind = "gaussian_noise-3"
    corruption, _, severity = kind.rpartition("-")
    if corruption in CORRUPTIONS:
        return lambda image, key: corrupted(image, corruption, int(severity), key)
    if kind == "sketch":
        return lambda image, _: renditions.edge_sketch(image)
    if kind == "posterised":
        return lambda image, _: renditions.posterised(image)
    if kind == "styled":

        def styled(image: Image.Image, key: str) -> Image.Image:
            other = int(np.random.default_rng(zlib.crc32(key.encode())).integers(len(photos.ids)))
            return renditions.styled(image, photos.image(other))

        return styled
    return lambda image, _: image


def corrupted(image: Image.Image, name: str, severity: int, key: str) -> Image.Image:
    """A small photograph under a corruption of ImageNet-C: enlarged, corrupted and brought back, where that leaves any of it.

    Args:
        key: of the photograph; the same key gives the same corruption.
    """
    if name in _AT_OWN_SIZE:
        return corrupt(image, name, severity, key)
    large = image.resize((_ENLARGED, _ENLARGED), Image.Resampling.BICUBIC)
    return corrupt(large, name, severity, key).resize(image.size, Image.Resampling.BOX)
