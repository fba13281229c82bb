"""The photos suite on small stand-in files, and its renditions by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cloudpickle
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from grpo_tta.bench.records import read_records
from grpo_tta.cli.main import app
from grpo_tta.data import photos, renditions
from grpo_tta.data.public.corrupted import CORRUPTIONS
from grpo_tta.errors import UserError
from tests.photo_files import TINY, write_photos


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos", 30)
    return tmp_path / "photos"


def test_every_task_makes_images_of_the_size_they_had(root: Path) -> None:
    tasks = {task.name: task for task in photos.photo_tasks(root, ["all"])}
    assert len(tasks) == 2 + 2 * 3 * len(CORRUPTIONS) + 3 + 2 + 2
    assert set(photos.default_tasks()) < set(tasks)
    for name, task in tasks.items():
        image, label = task.load(0)
        assert image.size == ((64, 64) if name.startswith("tiny") else (32, 32)), name
        assert image.mode == "RGB"
        assert 0 <= label < len(task.classes)
        assert task.load(0)[0].tobytes() == image.tobytes()
        assert len(set(task.image_ids)) == len(task.image_ids)
        assert task.ordered == (task.kind == "stream")
    assert tasks["tiny"].classes == tuple(names[0] for names in TINY.values())


def test_labels_follow_the_image(root: Path) -> None:
    frame = pd.read_parquet(root / "tiny-imagenet-val.parquet").set_index("image_id")
    for name in ("tiny", "tiny-fog-1", "tiny-as-cifar"):
        task = photos.photo_tasks(root, [name])[0]
        for number, image_id in enumerate(task.image_ids):
            wordnet = frame.loc[image_id.removeprefix(f"photos/{name}/reporting/"), "label"]
            _, label = task.load(number)
            expected = TINY[wordnet][0] if name != "tiny-as-cifar" else "ship" if wordnet == "n03662601" else "cat"
            assert task.classes[label] == expected


def test_across_sets_only_shared_classes_remain(root: Path) -> None:
    to_cifar, to_tiny = photos.photo_tasks(root, ["tiny-as-cifar", "cifar-as-tiny"])
    assert len(to_cifar.image_ids) == 90  # two kinds of cat and the lifeboat, no acorn
    assert len(to_tiny.image_ids) == 60  # cats and ships, no airplane
    assert to_cifar.classes == tuple(photos.SHARED)
    assert to_tiny.classes[2] == "tabby"


def test_tasks_have_their_own_order_and_a_limit_takes_the_first(root: Path) -> None:
    fog, snow = photos.photo_tasks(root, ["tiny-fog-3", "tiny-snow-3"])
    assert [i.rpartition("/")[2] for i in fog.image_ids] != [i.rpartition("/")[2] for i in snow.image_ids]
    assert photos.photo_tasks(root, ["tiny-fog-3"], limit=5)[0].image_ids == fog.image_ids[:5]


def test_streams(root: Path) -> None:
    zipf, runs = photos.photo_tasks(root, ["tiny-stream-zipf", "tiny-stream-correlated"])
    counts = sorted(np.bincount([zipf.load(n)[1] for n in range(len(zipf.image_ids))]), reverse=True)
    assert counts == [30, 15, 10, 7]
    labels = [runs.load(n)[1] for n in range(120)]
    assert all(len(set(labels[at : at + 10])) == 1 for at in range(0, 120, 10))
    assert len(set(labels[:40])) == 4


def test_tasks_travel_to_other_processes(root: Path) -> None:
    task = photos.photo_tasks(root, ["tiny-styled"], limit=2)[0]
    assert cloudpickle.loads(cloudpickle.dumps(task)).load(1)[0].tobytes() == task.load(1)[0].tobytes()


@pytest.mark.parametrize(
    ("names", "split", "limit", "message"),
    [
        (["nope"], "reporting", None, "Unknown task 'nope'"),
        ([], "reporting", None, "No task was named"),
        (None, "train", None, "Unknown split"),
        (None, "reporting", 0, "at least 1"),
    ],
)
def test_refused(root: Path, names: list[str] | None, split: str, limit: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        photos.photo_tasks(root, names, split, limit)


def test_missing_and_damaged_files(root: Path) -> None:
    with pytest.raises(UserError, match="--photos-root"):
        photos.photo_tasks(None)
    with pytest.raises(UserError, match="no such file"):
        photos.photo_tasks(root / "elsewhere", ["cifar"])
    (root / "cifar10-test.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="not a readable Parquet"):
        photos.photo_tasks(root, ["cifar"])
    (root / "tiny-imagenet-classes.json").write_text(json.dumps({"n02123045": ["tabby"]}))
    with pytest.raises(UserError, match="is not in it"):
        photos.photo_tasks(root, ["tiny"])
    (root / "tiny-imagenet-classes.json").unlink()
    with pytest.raises(UserError, match="tiny-imagenet-classes"):
        photos.photo_tasks(root, ["tiny"])


def test_bench_runs_the_suite_with_photo_clip_and_records_a_damaged_image(root: Path, tmp_path: Path) -> None:
    frame = pd.read_parquet(root / "cifar10-test.parquet")
    frame.at[0, "image"] = b"damaged"
    frame.to_parquet(root / "cifar10-test.parquet")
    command = ["bench", "--suite", "photos", "--photos-root", str(root), "--tasks", "cifar", "--methods", "zero-shot"]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "run" / "run.json").read_text())["model"] == "photo-clip"
    rows = read_records([tmp_path / "run"])
    assert len(rows) == 90
    failed = rows[rows["error"].notna()]
    assert list(failed["image_id"]) == ["photos/cifar/reporting/test/00000"]
    done = CliRunner().invoke(app, ["bench", "--photos-root", str(root), "--out", str(tmp_path / "other")])
    assert done.exit_code != 0


def test_the_report_shows_the_photographs_to_who_has_them(root: Path, tmp_path: Path) -> None:
    command = ["bench", "--suite", "photos", "--photos-root", str(root), "--tasks", "tiny-styled", "--limit", "20", "--report"]
    done = CliRunner().invoke(app, [*command, "--methods", "grpo-tta-fast,grpo-tta", "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    shown = re.compile('<img[^>]* src="data:image/png')
    assert shown.search((tmp_path / "run" / "report" / "report.html").read_text())
    done = CliRunner().invoke(app, ["report", str(tmp_path / "run"), "--out", str(tmp_path / "bare")])
    assert done.exit_code == 0, done.output
    assert not shown.search((tmp_path / "bare" / "report.html").read_text())


def flat(value: int, side: int = 32) -> Image.Image:
    return Image.fromarray(np.full((side, side, 3), value, np.uint8))


def test_a_sketch_has_lines_at_edges_alone() -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, 16:] = 255
    drawn = np.asarray(renditions.edge_sketch(Image.fromarray(pixels)))
    assert drawn[:, :12].min() == 255
    assert drawn[:, 20:].min() == 255
    assert drawn[16, 15:17].max() == 0
    assert np.asarray(renditions.edge_sketch(flat(90))).min() == 255


def test_a_poster_has_four_levels_from_black_to_white() -> None:
    ramp = np.repeat(np.arange(64, 192, 4, dtype=np.uint8)[None, :, None], 32, 0).repeat(3, 2)
    assert set(np.unique(np.asarray(renditions.posterised(Image.fromarray(ramp))))) == {0, 85, 170, 255}


def test_style_gives_the_others_colours() -> None:
    rng = np.random.default_rng(0)
    content = Image.fromarray(rng.integers(60, 200, (32, 32, 3), dtype=np.uint8))
    style = Image.fromarray(np.clip(rng.normal((150, 100, 90), (12, 20, 6), (48, 48, 3)), 0, 255).astype(np.uint8))
    made = np.asarray(renditions.styled(content, style), float).reshape(-1, 3)
    wanted = np.asarray(style.resize((32, 32), Image.Resampling.BICUBIC), float).reshape(-1, 3)
    assert np.allclose(made.mean(0), wanted.mean(0), atol=0.5)
    assert np.allclose(np.cov(made.T), np.cov(wanted.T), rtol=0.05, atol=2)
    same = np.asarray(renditions.styled(content, content), float)
    assert np.abs(same - np.asarray(content, float)).max() <= 1
    assert np.asarray(renditions.styled(flat(10), flat(200))).min() == 200
