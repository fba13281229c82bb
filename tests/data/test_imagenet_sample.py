"""The suite imagenet-sample: on stand-in photographs, and on the real ones with a published network where both are there."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import cloudpickle
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from grpo_tta import GRPOTTA
from grpo_tta.backbones.imagenet_classes import class_names, wordnet_ids
from grpo_tta.bench.records import read_records
from grpo_tta.cli.main import app
from grpo_tta.data import imagenet_sample
from grpo_tta.data.imagenet_sample import imagenet_sample_tasks, of_split
from grpo_tta.data.public.corrupted import CORRUPTIONS, centre_crop, corrupt
from grpo_tta.data.reopen import reopen
from grpo_tta.errors import UserError
from tests.families import write_classifier
from tests.photo_files import drawing

SHARED = Path(os.environ.get("GRPO_TTA_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "data"
NETWORK = Path(os.environ.get("GRPO_TTA_LITE0", ""))
COUNT = 10


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    rows = [{"image_id": f"sample/{key}", "label": key, "image": drawing(rng, 256)} for key in wordnet_ids()[: 2 * COUNT : 2]]
    pd.DataFrame(rows).to_parquet(folder / imagenet_sample.FILE)
    return folder


def photograph(task_id: str) -> str:
    return task_id.split("/", 3)[3]


def test_every_task_makes_images_of_224_pixels_of_its_own_order(root: Path) -> None:
    tasks = {task.name: task for task in imagenet_sample_tasks(root)}
    assert list(tasks)[:4] == ["clean", "gaussian_noise-1", "gaussian_noise-3", "gaussian_noise-5"]
    assert len(tasks) == 1 + 3 * len(CORRUPTIONS)
    assert {task.kind for name, task in tasks.items() if name != "clean"} == {"shifted"}
    frame = pd.read_parquet(root / imagenet_sample.FILE).set_index("image_id")
    for name in ("clean", "fog-1", "gaussian_noise-5"):
        task = tasks[name]
        assert task.classes == tuple(class_names().values())
        for number, image_id in enumerate(task.image_ids):
            image, label = task.load(number)
            assert image.size == (224, 224)
            assert wordnet_ids()[label] == frame.loc[photograph(image_id), "label"]
    orders = {tuple(map(photograph, task.image_ids)) for task in tasks.values()}
    assert len(orders) > 40
    assert {frozenset(order) for order in orders} == {frozenset(next(iter(orders)))}


def test_corruptions_are_imagenet_cs_and_the_same_every_time(root: Path) -> None:
    clean, noisy = imagenet_sample_tasks(root, ["clean", "gaussian_noise-3"])
    photos = imagenet_sample.read_file(root / imagenet_sample.FILE)
    where = list(map(photograph, clean.image_ids)).index(photograph(noisy.image_ids[0]))
    image = clean.load(where)[0]
    assert image.tobytes() == centre_crop(photos.image(photos.ids.index(photograph(noisy.image_ids[0])))).tobytes()
    expected = corrupt(image, "gaussian_noise", 3, photograph(noisy.image_ids[0]))
    assert noisy.load(0)[0].tobytes() == expected.tobytes() == noisy.load(0)[0].tobytes()


def test_classes_are_split_once_and_for_all(root: Path) -> None:
    labels = wordnet_ids()[::2]
    tuning, reporting = (set(of_split(labels, split).tolist()) for split in ("tuning", "reporting"))
    assert (len(tuning), len(reporting), len(tuning | reporting)) == (200, 300, 500)
    assert sorted(tuning)[:5] == [3, 5, 7, 17, 23]
    assert [len(imagenet_sample_tasks(root, ["clean"], split)[0].image_ids) for split in ("tuning", "reporting")] == [4, 6]
    assert len(imagenet_sample_tasks(root, ["clean"], limit=2)[0].image_ids) == 2


def test_a_task_can_be_sent_and_made_again(root: Path) -> None:
    task = imagenet_sample_tasks(root, ["contrast-5"], limit=2)[0]
    sent, again = cloudpickle.loads(cloudpickle.dumps(task)), reopen(task.source, root)
    assert again is not None
    assert sent.load(1)[0].tobytes() == again.load(1)[0].tobytes() == task.load(1)[0].tobytes()
    assert reopen(task.source, None) is None


def test_what_is_missing_or_unknown_is_said(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="imagenet-sample needs --photos-root"):
        imagenet_sample_tasks(None)
    with pytest.raises(UserError, match="no such file"):
        imagenet_sample_tasks(tmp_path)
    with pytest.raises(UserError, match="Unknown task 'fog-2'; choose all, clean or"):
        imagenet_sample_tasks(root, ["fog-2"])
    pd.DataFrame([{"image_id": "a", "label": "n00000001", "image": b""}]).to_parquet(tmp_path / imagenet_sample.FILE)
    with pytest.raises(UserError, match="'n00000001' is none of ImageNet's"):
        imagenet_sample_tasks(tmp_path)
    done = CliRunner().invoke(app, ["bench", "--suite", "imagenet-sample", "--photos-root", str(root)])
    assert "No shipped model knows ImageNet's 1,000 classes; name one with --model" in str(done.exception)


def bench(root: Path, model: Path, out: Path, *more: str) -> pd.DataFrame:
    arguments = ["bench", "--suite", "imagenet-sample", "--photos-root", str(root), "--out", str(out)]
    done = CliRunner().invoke(app, [*arguments, "--model", f"{model}@64", *more])
    assert done.exit_code == 0, done.output
    return read_records([out])


def test_bench_runs_it_with_a_classifier_of_a_thousand_classes(root: Path, tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    write_classifier("mobilenetv3_small_050", tmp_path / "net", wordnet_ids(), 224)
    rows = bench(root, tmp_path / "net", tmp_path / "run", "--limit", "2", "--tasks", "clean,fog-3",
                 "--methods", "zero-shot,grpo-tta-fast,tda")  # fmt: skip
    assert rows["error"].isna().all()
    assert len(rows) == 2 * 2 * 3
    assert set(json.loads((tmp_path / "run" / "run.json").read_text())["tasks"]) == {"clean", "fog-3"}


def test_the_readmes_command_runs_on_six_photographs(root: Path, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    start = text.index("grpo-tta bench --suite imagenet-sample")
    command = shlex.split(text[start : text.index("```", start)].replace("\\\n", " "))[1:]
    (tmp_path / "net").mkdir()
    write_classifier("mobilenetv3_small_050", tmp_path / "net", wordnet_ids(), 224)
    for option, value in (
        ("--photos-root", root), ("--model", f"{tmp_path / 'net'}@64"), ("--limit", 6), ("--out", tmp_path / "run"),
    ):  # fmt: skip
        command[command.index(option) + 1] = str(value)
    done = CliRunner().invoke(app, [*command, "--tasks", "clean"])
    assert done.exit_code == 0, done.output
    rows = read_records([tmp_path / "run"])
    assert rows["error"].isna().all()
    methods = command[command.index("--methods") + 1].split(",")
    assert rows.groupby("method").size().to_dict() == dict.fromkeys(methods, 6)
    for method in methods:  # and the table under the command has a row of each
        assert f"| {method} |" in text or f"| **{method}** |" in text


@pytest.mark.skipif(
    not (SHARED / imagenet_sample.FILE).is_file(), reason=f"no {imagenet_sample.FILE} in {SHARED}; set GRPO_TTA_SHARED"
)
def test_the_real_photographs_are_of_500_classes() -> None:
    for split, count in (("tuning", 200), ("reporting", 300)):
        task = imagenet_sample_tasks(SHARED, ["clean"], split)[0]
        assert len(set(task.image_ids)) == len({task.load(number)[1] for number in range(count)}) == count
    assert json.loads((SHARED / "imagenet-wnids.json").read_text()) == list(wordnet_ids())


@pytest.mark.skipif(
    not (NETWORK / "model.safetensors").is_file() or not (SHARED / imagenet_sample.FILE).is_file(),
    reason="no published network: set GRPO_TTA_LITE0 to the folder that recipes/efficientnet_lite.py writes",
)
def test_a_published_network_knows_real_photographs(tmp_path: Path) -> None:
    rows = bench(SHARED, NETWORK.absolute(), tmp_path / "run", "--limit", "3", "--tasks", "clean,contrast-3",
                 "--methods", "zero-shot,view-mean,grpo-tta,grpo-tta-fast")  # fmt: skip
    assert rows["error"].isna().all()
    assert len(rows) == 2 * 3 * 4
    task = imagenet_sample_tasks(SHARED, ["clean"], limit=12)[0]
    classifier = GRPOTTA(f"{NETWORK}@160", wordnet_ids(), settings="fast")
    pairs: list[tuple[Image.Image, int]] = [task.load(number) for number in range(12)]
    right = sum(
        wordnet_ids()[label] == answer.label_before
        for (_, label), answer in zip(pairs, classifier.predict([image for image, _ in pairs]), strict=True)
    )
    assert right >= 6  # chance is a hundredth of one
