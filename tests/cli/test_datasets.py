"""`grpo-tta datasets`, `datasets check` and `bench --dataset` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from grpo_tta.bench.records import read_records
from grpo_tta.cli.main import app
from grpo_tta.data.choose import Choice, choose_tasks
from grpo_tta.data.public.catalogue import BENCHMARKS, FIFTEEN
from grpo_tta.errors import UserError
from tests.benchmark_trees import put

DOCS = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"


def grpo_tta(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(scope="module")
def textures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of DTD's full size: 47 classes, 1,692 test images."""
    root = tmp_path_factory.mktemp("data")
    classes = [f"texture_{label:02d}" for label in range(47)]
    rows = {
        part: [(f"{name}/{name}_{part}_{n}.jpg", label, name) for label, name in enumerate(classes) for n in range(count)]
        for part, count in (("train", 60), ("val", 24), ("test", 36))
    }
    for path, label, _ in rows["test"]:
        put(root / "dtd" / "images" / path, label)
    (root / "dtd" / "split_zhou_DescribableTextures.json").write_text(json.dumps(rows))
    return root


def test_the_list() -> None:
    done = grpo_tta("datasets", "--json")
    assert done.exit_code == 0
    names = [row["name"] for row in json.loads(done.stdout)]
    assert names[:15] == [
        "imagenet", "imagenet-a", "imagenet-v2", "imagenet-r", "imagenet-sketch", "flowers102", "dtd", "oxford-pets",
        "stanford-cars", "ucf101", "caltech101", "food101", "sun397", "fgvc-aircraft", "eurosat",
    ]  # fmt: skip
    assert names[15:] == ["cifar10", "cifar100", "imagenet-c", "cifar10-c", "cifar100-c", "folder", "csv", "parquet"]
    for row in json.loads(done.stdout)[:20]:
        assert row["source"]
        assert row["layout"]
        assert row["licence"]
    shown = grpo_tta("datasets").stdout
    assert all(name in shown for name in names)


def test_check_says_what_is_wrong_and_what_to_get(textures: Path, tmp_path: Path) -> None:
    done = grpo_tta("datasets", "check", "dtd", "--root", str(textures))
    assert done.exit_code == 0, done.output
    assert "47 classes, 1,692 images, 1,692 of them opened" in done.stdout
    assert "all is well" in done.stdout
    done = grpo_tta("datasets", "check", "dtd", "imagenet-a", "--root", str(textures), "--json", "--no-decode")
    assert done.exit_code == 1
    good, bad = json.loads(done.stdout)
    assert (good["problems"], good["images"], good["decoded"]) == ([], 1692, 0)
    assert "were not found" in bad["problems"][0]
    done = grpo_tta("datasets", "check", "imagenet-a", "--root", str(tmp_path))
    assert "from: imagenet-a.tar" in done.stdout
    assert "into: imagenet-adversarial/imagenet-a/n01498041/" in done.stdout
    done = grpo_tta("datasets", "check", "fifteen", "cifar10-c", "--root", str(tmp_path), "--json")
    assert len(json.loads(done.stdout)) == 15 + 15


def test_check_of_ones_own(awkward_folder: Path) -> None:
    words = ("datasets", "check", "folder", "--root", str(awkward_folder.parent))
    (found,) = json.loads(grpo_tta(*words, "--json").stdout)
    # as Tiny-ImageNet's val/images
    assert "'images' is the only class, and classification needs two; sort the images into" in found["problems"][0]
    (awkward_folder.parent / "stars").mkdir()
    (awkward_folder.parent / "stars" / "a.jpg").write_bytes((awkward_folder / "a.jpg").read_bytes())
    (awkward_folder.parent / "notes.txt").write_text("x")
    done = grpo_tta(*words, "--json")
    (found,) = json.loads(done.stdout)
    assert done.exit_code == 1
    assert (found["classes"], found["images"], found["decoded"]) == (2, 7, 5)
    assert found["notes"] == [f"{awkward_folder.parent}: skipped what is not read as an image (1 .txt)."]
    shown = " ".join(grpo_tta(*words).stdout.split())
    assert "2 classes, 7 images, 5 of them opened" in shown
    assert "skipped what is not read as an image (1 .txt)" in shown
    assert len(found["problems"]) == 2
    assert "images/e.jpg: truncated or damaged" in found["problems"][0]
    assert "images/f.jpg: not an image" in found["problems"][1]
    done = grpo_tta("datasets", "check", "csv", "--root", str(awkward_folder), "--json")
    assert "is no csv; name its kind" in json.loads(done.stdout)[0]["problems"][0]


def test_bench_runs_a_benchmark_clean_and_corrupted(textures: Path, tmp_path: Path) -> None:
    arguments = ["bench", "--dataset", "dtd", "--root", str(textures), "--limit", "5", "--methods", "zero-shot"]
    done = grpo_tta(*arguments, "--out", str(tmp_path / "clean"), "--template", "coop")
    assert done.exit_code == 0, done.output
    rows = read_records([tmp_path / "clean"])
    assert sorted(rows["label"]) == [0, 9, 18, 28, 37]
    assert set(rows["kind"]) == {"cross-domain"}
    assert rows["error"].isna().all()
    done = grpo_tta(*arguments, "--out", str(tmp_path / "bad"), "--corruptions", "fog", "--severities", "2")
    assert done.exit_code == 0, done.output
    # sixteen pixels are too few to corrupt: a row with its error, as for any bad image
    assert read_records([tmp_path / "bad"])["error"].str.contains("too few to corrupt").all()


def test_options_that_do_not_go_together(textures: Path, tmp_path: Path) -> None:
    def refused(message: str, **options: object) -> None:
        with pytest.raises(UserError, match=message):
            choose_tasks(Choice(**options))  # type: ignore[arg-type]

    refused("--dataset needs --root", datasets=("dtd",))
    refused("both given", datasets=("dtd",), data=tmp_path)
    refused("belong to --dataset", root=tmp_path)
    refused("Unknown suite 'x'", suite="x")
    refused("Unknown split 'x'", datasets=("dtd",), root=textures, split="x")
    refused("limit of 0", datasets=("dtd",), root=textures, limit=0)
    refused("Unknown corruption", corruptions=("rain",))
    refused("were not found", datasets=("dtd", "eurosat"), root=textures)
    refused("were not found", datasets=("dtd",), root=textures, split="tuning")
    (task,) = choose_tasks(Choice(tasks=("digits",), split="tuning", limit=2))
    assert task.name == "digits"


def test_the_docs_name_every_command_and_figure() -> None:
    text = DOCS.read_text()
    assert text.count("not run here") >= 1
    for benchmark in FIFTEEN:
        assert f"--dataset {benchmark.name} " in text
        assert f"{benchmark.zero_shot:.2f}" in text
        assert benchmark.layout[0].split("/")[0] + "/" in text
    for name in (*BENCHMARKS, "imagenet-c", "cifar10-c", "cifar100-c"):
        assert f"`{name}`" in text
