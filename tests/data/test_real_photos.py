"""Real photographs kept beside the project: three layouts, one result."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from grpo_tta import GRPOTTA
from grpo_tta.bench.records import read_records
from grpo_tta.cli.main import app
from grpo_tta.data.custom import custom_task
from grpo_tta.data.photos import photo_tasks
from grpo_tta.images.read import image_key

PHOTOS = Path(os.environ.get("GRPO_TTA_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "data"
needs_photos = pytest.mark.skipif(
    not (PHOTOS / "cifar10-test.parquet").is_file(), reason=f"no real photographs in {PHOTOS}; set GRPO_TTA_SHARED"
)
ROWS = 10


def bench(data: Path, out: Path, *more: str) -> pd.DataFrame:
    done = CliRunner().invoke(app, ["bench", "--data", str(data), "--out", str(out), "--batch", "8", *more])
    assert done.exit_code == 0, done.output
    return read_records([out])


@needs_photos
def test_bench_gives_the_same_from_parquet_folder_and_csv(tmp_path: Path) -> None:
    first = next(pq.ParquetFile(PHOTOS / "cifar10-test.parquet").iter_batches(ROWS)).to_pandas()
    names = sorted(set(first["label"]))
    first.to_parquet(tmp_path / "photos.parquet")
    for row in first.itertuples():
        path = tmp_path / "photos" / row.label / Path(row.image_id).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row.image)
    paths = [f"photos/{row.label}/{Path(row.image_id).name}" for row in first.itertuples()][::-1]
    pd.DataFrame({"path": paths, "label": list(first["label"])[::-1]}).to_csv(tmp_path / "photos.csv", index=False)
    methods = ("--methods", "zero-shot,grpo-tta")
    tables = []
    for data in (tmp_path / "photos.parquet", tmp_path / "photos", tmp_path / "photos.csv"):
        rows = bench(data, tmp_path / "runs" / data.name, *methods)
        task = custom_task(data, template="{}")
        assert task.classes == tuple(names)
        key = {name: image_key(task.load(n)[0]) for n, name in enumerate(task.image_ids)}
        rows["key"] = rows["image_id"].map(key)
        tables.append(rows.sort_values(["key", "method"], ignore_index=True))
    parquet, folder, csv = tables
    assert len(parquet) == 2 * ROWS
    assert parquet["error"].isna().all()
    assert (parquet["label"] >= 0).all()
    for other in (folder, csv):
        for column in ("key", "method", "label"):
            assert (parquet[column] == other[column]).all()
        sure = parquet["margin"] > 1e-4
        assert (parquet["prediction"] == other["prediction"])[sure].all()
        # the neighbours in a batch differ with the order, so the last digits may
        assert (parquet["confidence"] - other["confidence"]).abs().max() < 1e-4


@needs_photos
def test_names_of_wordnet_labels_and_corruptions(tmp_path: Path) -> None:
    first = next(pq.ParquetFile(PHOTOS / "tiny-imagenet-val.parquet").iter_batches(6)).to_pandas()
    first.to_parquet(tmp_path / "val.parquet")
    classes = json.loads((PHOTOS / "tiny-imagenet-classes.json").read_text())
    task = custom_task(tmp_path / "val.parquet", template="{}", labels_file=PHOTOS / "tiny-imagenet-classes.json")
    assert len(task.classes) == 200
    for number, label in enumerate(first["label"]):
        assert task.classes[task.load(number)[1]] == classes[label][0]
    rows = bench(tmp_path / "val.parquet", tmp_path / "x", "--corruptions", "fog,pixelate", "--severities", "1,5",
                 "--methods", "zero-shot")  # fmt: skip
    assert list(rows["task"].unique()) == ["val-fog-1", "val-fog-5", "val-pixelate-1", "val-pixelate-5"]
    assert rows["error"].isna().all()
    assert rows["kind"].eq("shifted").all()


@needs_photos
def test_photo_clip_knows_photographs_and_adapts_to_them() -> None:
    task = photo_tasks(PHOTOS, ["cifar"], limit=40)[0]
    classifier = GRPOTTA("photo-clip", task.classes, settings="fast")
    pairs = [task.load(number) for number in range(40)]
    answers = classifier.predict([image for image, _ in pairs])
    truth = [task.classes[label] for _, label in pairs]
    for said in ([a.label for a in answers], [a.label_before for a in answers]):
        assert sum(a == b for a, b in zip(said, truth, strict=True)) > 16  # chance is four
