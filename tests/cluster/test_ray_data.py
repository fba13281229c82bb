"""The same work on Ray: the same rows with one worker, with two, with deaths on the way, and after a killed driver."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from grpo_tta.backbones.base import Backbone
from grpo_tta.baselines.registry import choose_methods
from grpo_tta.bench.records import TIME_AND_MEMORY, read_records
from grpo_tta.bench.runner import RunSettings, run
from grpo_tta.classifier import GRPOTTA
from grpo_tta.cli.main import app
from grpo_tta.cli.options import settings_of
from grpo_tta.cluster.attempts import GAVE_UP
from grpo_tta.cluster.jobs import BenchJob, ModelName, PredictJob
from grpo_tta.cluster.manifest import open_manifest
from grpo_tta.cluster.settings import RaySettings
from grpo_tta.cluster.sources import TaskSource, manifest_source
from grpo_tta.data.custom import custom_task
from grpo_tta.data.tasks import nano_tasks
from grpo_tta.engine.interface import Method
from grpo_tta.errors import UserError
from grpo_tta.images.read import image_key, to_rgb

ray = pytest.importorskip("ray")
from grpo_tta.cluster.ray_data import bench_on_ray, predict_on_ray  # noqa: E402
from grpo_tta.cluster.session import session  # noqa: E402

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
TWO = RaySettings(actors=2, cpus=0.5, chunk=4, object_store_mb=200)
NANO = ModelName("nano-clip")


@pytest.fixture(scope="module")
def here() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_worker_niceness", "0")  # else a busy machine starves Ray's processes
        with session(TWO):
            yield
    assert not ray.is_initialized()


def table(folder: Path) -> pd.DataFrame:
    rows = read_records([folder]).drop(columns=list(TIME_AND_MEMORY))
    return rows.sort_values(["task", "image_id", "method"], ignore_index=True)


def deadly(method: Method, times: dict[str, int], marks: Path) -> Method:
    """The method, but its process is killed (as by the system when memory runs out) on some images, some times."""
    inner = method.run

    def run(policy, batch, state):  # type: ignore[no-untyped-def]
        for name in batch.image_ids:
            mark = marks / name.replace("/", "-")
            deaths = len(mark.read_text()) if mark.exists() else 0
            if deaths < times.get(name, 0):
                mark.write_text("x" * (deaths + 1))
                os.kill(os.getpid(), signal.SIGKILL)
        return inner(policy, batch, state)

    return replace(method, run=run)


@pytest.mark.usefixtures("here")
def test_workers_and_their_deaths_change_nothing(nano_backbone: Backbone, tmp_path: Path) -> None:
    tasks, methods, settings = (
        nano_tasks(["fog", "digits"], "tuning", 12),
        choose_methods(["zero-shot", "grpo-tta"]),
        RunSettings(batch=4),
    )
    run(nano_backbone, tasks, methods, tmp_path / "local", replace(settings, chunk=4))
    local = table(tmp_path / "local")
    assert len(local) == 2 * 2 * 12
    source = TaskSource(tuple(tasks))

    def same(out: Path) -> None:
        rows = table(out)
        pd.testing.assert_frame_equal(rows, local, rtol=1e-4, atol=1e-5)
        assert (rows["prediction"] == local["prediction"]).all()

    for actors in (1, 2):
        out = tmp_path / f"ray-{actors}"
        bench_on_ray(NANO, source, methods, str(out), settings, replace(TWO, actors=actors))
        same(out)
    (tmp_path / "marks").mkdir()
    names = {"nano/fog/tuning/0003": 1, "nano/digits/tuning/0007": 1}
    mortal = [deadly(methods[0], names, tmp_path / "marks"), methods[1]]
    bench_on_ray(NANO, source, mortal, str(tmp_path / "killed"), settings, replace(TWO, actors=1))
    assert len(list((tmp_path / "marks").iterdir())) == 2
    same(tmp_path / "killed")
    assert not (tmp_path / "killed" / "attempts").exists()
    with pytest.raises(UserError, match=r"holds another run \(.*engine"):
        run(nano_backbone, tasks, methods, tmp_path / "ray-2", settings)


@pytest.mark.usefixtures("here")
def test_what_goes_wrong_on_one_image_is_its_row(tmp_path: Path) -> None:
    task = nano_tasks(["fog"], "tuning", 12)[0]
    names, images = [], []
    for number in range(12):
        buffer = io.BytesIO()
        task.load(number)[0].save(buffer, "PNG")
        names.append(f"{number}.png")
        images.append(buffer.getvalue())
    (tmp_path / "2.png").write_bytes(images[2])
    huge = io.BytesIO()
    Image.new("L", (12000, 12000)).save(huge, "PNG")
    images[1] = images[1][: len(images[1]) // 2]  # corrupted
    images[5] = huge.getvalue()  # 576 MB once it is RGB
    images[2:5], images[8] = [None] * 3, None  # not in the manifest, but at a path
    paths = [None, None, "2.png", "nowhere.png", "nosuch://host/4.png", *[None] * 3, "file:///nowhere/8.png", *[None] * 3]
    labels = [task.classes[task.load(number)[1]] for number in range(12)]
    labels[10] = "no class"
    columns = {"image_id": names, "image": images, "path": paths, "label": labels}
    pq.write_table(pa.table(columns), tmp_path / "manifest.parquet")
    (tmp_path / "labels.txt").write_text("\n".join(task.classes))
    (tmp_path / "marks").mkdir()
    nine = image_key(to_rgb(task.load(9)[0]))  # what a method knows of a user's own image
    methods = [deadly(choose_methods(["zero-shot"])[0], {nine: 8}, tmp_path / "marks")]

    out = tmp_path / "out"
    source = manifest_source(str(tmp_path / "manifest.parquet"), str(out), task.template, tmp_path / "labels.txt")
    limited = replace(TWO, memory_gb=0.5)  # threads of Ray count, too, and there are more on a busy machine
    bench_on_ray(NANO, source, methods, str(out), RunSettings(batch=4), limited)
    rows = read_records([out]).set_index("image_id")
    errors = rows["error"].dropna().to_dict()
    assert sorted(rows.index) == sorted(names)
    expected = {
        "1.png": "truncated or damaged",
        "3.png": "no such file",
        "4.png": "no file system",
        "5.png": "MemoryError",
        "8.png": "cannot be read",
        "9.png": GAVE_UP,
        "10.png": "'no class' is unknown",
    }
    assert set(errors) == set(expected), "\n".join(f"{name}: {text}" for name, text in errors.items())
    assert all(expected[name] in errors[name] for name in expected), errors
    good = rows[rows["error"].isna()]
    assert good["label"].tolist() == [task.load(int(Path(name).stem))[1] for name in good.index]
    # Dying over and over is noticed: twice with its neighbours, twice alone, then never again.
    assert (tmp_path / "marks" / nine).read_text() == "xxxx"


def test_an_actor_says_of_a_folder_what_the_local_run_says(nano_backbone: Backbone, tmp_path: Path) -> None:
    (task,) = nano_tasks(["fog"], "tuning", 4)
    for number in range(4):
        image, label = task.load(number)
        (tmp_path / "in" / f"class_{label % 2}").mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "in" / f"class_{label % 2}" / f"{number}.png")
    (tmp_path / "names.json").write_text('{"class_0": "star", "class_1": "red_circle"}')
    methods = tuple(choose_methods(["zero-shot", "grpo-tta"]))
    source = manifest_source(str(tmp_path / "in"), str(tmp_path / "out"), "a {}.", tmp_path / "names.json")
    rows = BenchJob(NANO, source, methods, RunSettings()).start()(pq.read_table(source.manifest.uri), False).to_pandas()
    local_task = custom_task(tmp_path / "in", template="a {}.", labels_file=tmp_path / "names.json")
    run(nano_backbone, [local_task], methods, tmp_path / "local", RunSettings(), timed=False)
    columns = ["task", "image_id", "method", "label", "prediction", "confidence", "entropy"]
    one, two = (
        found[columns].sort_values(["method", "image_id"], ignore_index=True)
        for found in (rows, read_records([tmp_path / "local"]))
    )
    pd.testing.assert_frame_equal(one, two, rtol=1e-4, atol=1e-5)


def test_labels_with_other_names_reach_the_actors(awkward_folder: Path, tmp_path: Path) -> None:
    manifest = open_manifest(str(awkward_folder), str(tmp_path / "out"), labelled=False)
    job = PredictJob(NANO, {"a": "missile", "b": "missile", "c": "tench"}, {}, 4, manifest)
    assert job.describe()["labels"] == ["a", "b", "c"]


ON_RAY = ("--engine", "ray", "--actors", "1", "--actor-cpus", "0.5", "--chunk", "4")


@dataclass(frozen=True)
class Predict:
    """`grpo-tta predict` on the images of a folder, in this process."""

    capsys: pytest.CaptureFixture[str]

    def __call__(self, *words: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error."""
        few = ("--labels", "star,heart,red circle", "--set", "views.views=2", "--batch", "2")
        status = app(("predict", *words, *few), standalone_mode=False)
        found = self.capsys.readouterr()
        return status or 0, found.out, found.err


@pytest.fixture
def predict(awkward_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Predict:
    """Beside a folder `in` that holds four good images, a truncated one and a text."""
    awkward_folder.rename(awkward_folder.parent / "in")
    monkeypatch.chdir(awkward_folder.parent)
    return Predict(capsys)


def same_rows(found: list[dict[str, object]], expected: list[dict[str, object]]) -> None:
    """Equal but for rounding."""
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        for name, value in other.items():
            numbers = isinstance(value, float) or (isinstance(value, list) and value and isinstance(value[0], float))
            assert one[name] == (pytest.approx(value, abs=1e-5) if numbers else value), name


def summary(err: str) -> str:
    """The last line, without the rate."""
    return re.sub(r"[^,]* per second,", "", err.splitlines()[-1])


@pytest.mark.usefixtures("here")
def test_rows_and_exit_status_on_standard_output_are_those_of_this_machine(predict: Predict) -> None:
    Path("list").write_text(f"in/f.jpg\n{Path('in/b.png').absolute().as_uri()}\nin/gone.png\n")
    several = ("in/[ad].*", "--files-from", "list")
    for words in (("in", "--jsonl", "--top-k", "2", "--threshold", "0.6"), (*several, "--jsonl", "--all-probabilities")):
        status, out, err = predict(*words, "--embeddings", "here.parquet")
        assert status == 1
        status_there, out_there, err_there = predict(*words, "--embeddings", "there.parquet", *ON_RAY)
        assert status_there == status
        lines = [[json.loads(line) for line in text.splitlines()] for text in (out_there, out)]
        for rows in lines:  # numbers beside their labels
            for row in rows:
                row |= {"names": list(row.get("probabilities", {})), "probabilities": [*row.get("probabilities", {}).values()]}
        same_rows(*lines)
        same_rows(pq.read_table("there.parquet").to_pylist(), pq.read_table("here.parquet").to_pylist())
        assert summary(err_there) == summary(err)
        assert err_there.splitlines()[:-1] == err.splitlines()[:-1]  # one line for each damaged image


@pytest.mark.usefixtures("here")
def test_a_folder_of_answers_is_that_of_this_machine_and_is_resumed(predict: Predict) -> None:
    status, _, err = predict("in", "--out", "here", "--embeddings", "here.npz")
    assert status == 1
    for _ in range(2):
        status_there, _, err_there = predict("in", "--out", "there", "--embeddings", "there.npz", *ON_RAY)
        assert status_there == status
        assert summary(err_there).endswith(summary(err)[len("4 answered") :])
        rows, rows_there = (
            sorted(pq.read_table(f"{folder}/predictions").to_pylist(), key=lambda row: row["image_id"])
            for folder in ("here", "there")
        )
        same_rows(rows_there, rows)
    with np.load("here.npz") as one, np.load("there.npz") as two:
        order = np.argsort(two["ids"])
        assert two["ids"][order].tolist() == one["ids"].tolist()
        assert two["embeddings"][order] == pytest.approx(one["embeddings"], abs=1e-5)
    description = json.loads(Path("there/run.json").read_text())
    assert (description["device"], description["dtype"], description["embeddings"]) == ("cpu", "float32", 128)
    with pytest.raises(UserError, match="another run"):
        predict("in", "--out", "there", "--top-k", "1", *ON_RAY)
    predict("in/a.jpg", "in/b.png", "--out", "two", *ON_RAY)
    with pytest.raises(UserError, match=r"two holds another run \(images differ\)"):
        predict("in/a.jpg", "in/d.jpg", "--out", "two", *ON_RAY)


@pytest.mark.usefixtures("here")
def test_a_reward_of_a_file_reaches_the_actors(awkward_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def flipped(reference, group):\n    return -group.gather(reference.ensemble[:, None])\n")
    settings = settings_of("default", ["views.views=4", f"reward={tmp_path / 'own.py'}:flipped"])
    labels, path = ["star", "heart", "red circle"], awkward_folder / "a.jpg"
    local, plain = (GRPOTTA("nano-clip", labels, settings=s).predict(path) for s in (settings, "default"))
    (tmp_path / "one").mkdir()
    path.rename(tmp_path / "one" / "a.jpg")
    out = str(tmp_path / "out")
    job = job_of(tmp_path / "one", tmp_path / "out", labels, settings=settings)
    predict_on_ray(job, out, replace(TWO, actors=1))
    (row,) = pq.read_table(tmp_path / "out" / "predictions").to_pylist()
    assert (row["error"], row["label"]) == (None, local.label)
    assert row["probability"] == pytest.approx(local.probability, abs=1e-5)
    assert row["probability"] != pytest.approx(plain.probability, abs=1e-3)


DRIVER = """
import os, sys, time
from dataclasses import replace
from grpo_tta.bench.runner import RunSettings
from grpo_tta.data.tasks import nano_tasks
from grpo_tta.cluster.jobs import ModelName
from grpo_tta.cluster.ray_data import bench_on_ray
from grpo_tta.cluster.manifest import open_manifest
from grpo_tta.cluster.settings import RaySettings
from grpo_tta.cluster.sources import TaskSource
from grpo_tta.baselines.registry import choose_methods

def noted(method, log, hold):
    inner = method.run

    def run(policy, batch, state):
        with open(log, "a") as file:
            file.write("".join(f"{os.getpid()} {name}\\n" for name in batch.image_ids))
        place = [line.split()[1] for line in open(log)].index(batch.image_ids[0])
        while os.path.exists(hold) and place >= 12:
            time.sleep(0.05)
        return inner(policy, batch, state)

    return replace(method, run=run)

def main(out, log, hold):
    source = TaskSource(tuple(nano_tasks(["fog"], "tuning", 64)))
    methods = [noted(choose_methods(["zero-shot"])[0], log, hold)]
    settings = RaySettings(actors=2, cpus=0.5, chunk=4, object_store_mb=200)
    bench_on_ray(ModelName("nano-clip"), source, methods, out, RunSettings(), settings)

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.usefixtures("here")
def test_a_killed_driver_resumes_without_a_lost_or_doubled_row(tmp_path: Path) -> None:
    (tmp_path / "driver.py").write_text(DRIVER)
    out, log, hold = tmp_path / "out", tmp_path / "log", tmp_path / "hold"
    hold.touch()
    command = [sys.executable, str(tmp_path / "driver.py"), str(out), str(log), str(hold)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def begun() -> list[str]:
        return log.read_text().splitlines() if log.exists() else []

    def committed() -> int:
        return sum(1 for path in (out / "checkpoint").glob("*.parquet") if ".pending" not in path.name)

    def both_held() -> bool:
        last = {line.split()[0]: place for place, line in enumerate(begun())}
        return len(last) == 2 and min(last.values()) >= 12 and len(begun()) == 4 * committed() + 8

    until(both_held, "both workers in the middle of a batch, all batches before on disk")
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = begun()
    workers = {int(line.split()[0]) for line in before}
    assert len(workers) == 2
    until(lambda: not any(alive(pid) for pid in workers), "Ray ends its workers")
    hold.unlink()

    spec: dict[str, object] = {"__name__": "driver"}
    exec(compile(DRIVER, "driver.py", "exec"), spec)
    spec["main"](str(out), str(log), str(hold))  # type: ignore[operator]
    rows = read_records([out])
    assert sorted(rows["image_id"]) == [f"nano/fog/tuning/{number:04d}" for number in range(64)]
    times = Counter(line.split()[1] for line in begun())
    assert len(times) == 64
    in_hand = {name for pid in workers for name in [line.split()[1] for line in before if line.startswith(f"{pid} ")][-4:]}
    assert {name for name, count in times.items() if count > 1} == in_hand  # one batch of four a worker, and no other
    assert max(times.values()) == 2


def test_what_cannot_run_is_refused_before_ray_starts(tmp_path: Path) -> None:
    source = TaskSource(tuple(nano_tasks(["fog"], "tuning", 2)))
    with pytest.raises(UserError, match="tent depends on the order"):
        bench_on_ray(NANO, source, choose_methods(["zero-shot", "tent"]), str(tmp_path), RunSettings(), TWO)
    with pytest.raises(UserError, match="at least 1"):
        RaySettings(actors=0)
    with pytest.raises(UserError, match="above 0"):
        RaySettings(cpus=0)
    with pytest.raises(UserError, match="both --device cuda and --actor-gpus"):
        predict_on_ray(
            replace(job_of(_images(tmp_path), tmp_path / "o"), model=replace(NANO, device="cuda")), str(tmp_path / "o"), TWO
        )


@pytest.mark.usefixtures("here")
def test_a_model_that_cannot_be_loaded_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Unknown model 'nothing'"):
        predict_on_ray(replace(job_of(_images(tmp_path), tmp_path / "o"), model=ModelName("nothing")), str(tmp_path / "o"), TWO)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench", "--engine", "spark"), "Unknown engine 'spark'"),
        (("bench", "--engine", "ray", "--shard", "0/2"), "leave out --shard"),
        (("bench", "--engine", "ray", "--methods", "all"), "cannot run on Ray"),
        (("bench", "--engine", "ray", "--data", "x", "--corruptions", "fog"), "beside --data also --limit, --corruptions"),
        (("bench", "--engine", "ray", "--data", "nowhere"), "nowhere: no such file or folder"),
        (("predict", "nowhere.png", "--engine", "ray", "--labels", "x,y"), r"nowhere\.png: no such file"),
        (("predict", "a", "--threads", "2", "--engine", "ray", "--labels", "x,y"), "leave out --threads"),
        (("bench", "--threads", "2", "--engine", "ray"), "leave out --threads"),
        (("predict", "a", "--top-k", "0", "--engine", "ray", "--labels", "x,y"), "--top-k must be at least 1"),
    ],
)
def test_the_command_line_refuses_in_a_sentence(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "out"))
    with pytest.raises(UserError, match=message):
        app(arguments + out, standalone_mode=False)


def test_one_document_is_not_made_on_ray() -> None:
    with pytest.raises(UserError, match="with Ray use --jsonl, or --out"):
        app(("predict", "a", "--json", "--engine", "ray", "--labels", "x,y"), standalone_mode=False)


def test_without_ray_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'grpo-tta\[ray\]'"):
        app(["bench", "--engine", "ray"], standalone_mode=False)


def job_of(images: Path, out: Path, labels: Sequence[str] = ("a", "b"), **options: object) -> PredictJob:
    return PredictJob(NANO, tuple(labels), options, 4, open_manifest(str(images), str(out), labelled=False))


def _images(folder: Path) -> Path:
    (folder / "images").mkdir()
    Image.new("RGB", (9, 9)).save(folder / "images" / "a.png")
    return folder / "images"
