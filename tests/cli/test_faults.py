"""Faults that people meet at the terminal: its encoding, brackets in names, devices that are not there, pipes, weights."""

from __future__ import annotations

import base64
import csv
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from grpo_tta.backbones.base import check_square, load_backbone
from grpo_tta.backbones.names import shipped_folder
from grpo_tta.cli.main import app
from grpo_tta.data.public.imagenet import class_names as imagenet_names
from grpo_tta.errors import UserError
from grpo_tta.images.folders import find_images
from grpo_tta.images.read import load_image
from tests.fault_cases import class_folders, png, put
from tests.other_user import as_nobody, open_to_others

TWO = "звезда,круг"


def grpo_tta(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "grpo_tta", *arguments]
    return subprocess.run(command, capture_output=True, env=os.environ | environment)


def invoke(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


# Terminals of other encodings


@pytest.mark.parametrize(("encoding", "form"), [("ascii", []), ("cp1252", ["--csv"]), ("ascii", ["--json"])])
def test_answers_are_written_on_any_terminal(tmp_path: Path, encoding: str, form: list[str]) -> None:
    put(tmp_path / "снимок ✓.png", png(200, 64))
    put(tmp_path / "плохой.png", b"x")
    done = grpo_tta("predict", str(tmp_path), "--labels", TWO, *form, PYTHONIOENCODING=encoding)
    assert done.returncode == 1  # for the image that cannot be read
    out, err = done.stdout.decode(encoding), done.stderr.decode(encoding)
    assert "Traceback" not in err
    assert len(err.splitlines()) == 2  # the image that cannot be read, and the summary
    if form == ["--csv"]:
        rows = list(csv.DictReader(out.splitlines()))
        labels = [text.encode(errors="backslashreplace").decode("unicode-escape") for text in (r["label"] for r in rows)]
        assert set(labels) <= {*TWO.split(","), ""}
        assert len(rows) == 2
    elif form == ["--json"]:
        assert json.loads(out)["labels"] == TWO.split(",")
    else:
        assert r"\u043a" in out  # the letters can be told, whatever the terminal knows


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_refusal_is_written_on_any_terminal(tmp_path: Path, encoding: str) -> None:
    done = grpo_tta("predict", str(tmp_path / "нет.png"), "--labels", TWO, PYTHONIOENCODING=encoding)
    assert done.returncode == 2
    assert done.stderr.decode(encoding).endswith("no such file or folder; check the path.\n")


def test_bench_and_its_report_run_in_an_ascii_terminal(tmp_path: Path) -> None:
    class_folders(tmp_path / "снимки", ("звезда", "круг"))
    words = [
        "bench",
        "--data",
        str(tmp_path / "снимки"),
        "--methods",
        "zero-shot",
        "--report",
        "--out",
        str(tmp_path / "выход"),
    ]
    done = grpo_tta(*words, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "выход" / "report" / "report.html").is_file()


def test_files_of_ones_own_are_no_drawings_as_nano_clip_knows_them(tmp_path: Path) -> None:
    """Wherever nano-clip is the default, a run on files that are not its own says so."""
    said = "nano-clip knows drawings alone: for photographs name another --model (photo-clip, "
    class_folders(tmp_path / "mine", ("star", "circle"))
    bench = ["bench", "--methods", "zero-shot", "--out"]
    own = CliRunner().invoke(app, [*bench, str(tmp_path / "a"), "--data", str(tmp_path / "mine")])
    assert own.exit_code == 0
    assert own.stderr.startswith(said)
    suite = CliRunner().invoke(app, [*bench, str(tmp_path / "b"), "--tasks", "fog", "--limit", "2"])
    other = CliRunner().invoke(app, [*bench, str(tmp_path / "c"), "--data", str(tmp_path / "mine"), "--model", "photo-clip"])
    assert said not in suite.stderr + other.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:  # both get no further than their first words
        port = ["--port", str(taken.getsockname()[1])]
        for words in (["serve", "--labels", TWO], ["app"]):
            for model in ("nano-clip", "photo-clip"):
                done = CliRunner().invoke(app, [*words, "--model", model, *port])
                assert isinstance(done.exception, UserError), done.exception
                assert (said in done.stderr) == (model == "nano-clip")


# Brackets in names


def test_no_command_reads_markup_in_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`[/final]` ends a style that was never begun, and `[red]` vanishes."""
    monkeypatch.chdir(tmp_path)
    few = ["--limit", "2", "--tasks", "fog"]
    bench = ["bench", *few, "--methods", "zero-shot"]
    out = "runs [/final]"
    assert f"Records in {out}." in invoke(*bench, "--out", out)
    assert f"Page: {out}/r/report.html" in invoke("report", out, "--out", f"{out}/r")
    assert "Page: runs [red]/report/report.html" in invoke(*bench, "--report", "--out", "runs [red]")
    assert f"{out} demo/records" in " ".join(invoke("demo", *few, "--out", f"{out} demo").split())
    assert f"Records in {out} sweep." in invoke("sweep", *few, "--vary", "steps.count=1,2", "--out", f"{out} sweep")
    assert f"Page: {out} sweep r/report.html" in invoke("report", f"{out} sweep", "--out", f"{out} sweep r")
    assert "Records in workers [/final]." in invoke(*bench, "--workers", "2", "--out", "workers [/final]")


def test_no_command_reads_markup_or_formulas_in_names(tmp_path: Path) -> None:
    root, out = tmp_path / "[red] $x_", str(tmp_path / "out")
    class_folders(root, ("star", "circle"))
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"star": "star [/b]", "circle": r"$\frac circle"}))
    words = ["--data", str(root), "--labels-file", str(labels), "--methods", "zero-shot,view-mean"]
    invoke("bench", *words, "--report", "--out", out)
    page = (tmp_path / "out" / "report" / "report.html").read_text()
    assert "[red] $x_" in page
    assert r"$\frac circle" in page
    done = CliRunner().invoke(app, ["datasets", "check", "[/x]", "--root", str(root)])
    assert isinstance(done.exception, UserError)
    assert "Unknown data set '[/x]'" in str(done.exception)
    output = invoke("datasets", "check", "folder", "--root", str(root))
    assert f"read from {root}" in output


# Devices, weights and models that do not fit


@pytest.mark.parametrize("device", ["meta", "mps", "xpu", "cuda:99", "cpu:x", "gpu"])
def test_a_device_that_is_not_there_is_one_sentence(device: str) -> None:
    if device != "meta" and device.isalpha() and getattr(getattr(torch, device, None), "is_available", bool)():
        pytest.skip("this machine has one")
    with pytest.raises(UserError, match=r"use (--device )?cpu") as caught:
        load_backbone("nano-clip", device=device)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["meta", "mps", "xpu"])
@pytest.mark.parametrize(
    "words",
    [["predict", "{folder}", "--labels", TWO], ["bench", "--tasks", "fog", "--limit", "2", "--out", "{folder}/out"],
     ["serve", "--labels", TWO, "--port", "0"], ["app", "--port", "0"]],
    ids=lambda words: words[0],
)  # fmt: skip
def test_every_command_names_a_device_that_is_not_there(tmp_path: Path, words: list[str], device: str) -> None:
    if device != "meta" and getattr(getattr(torch, device, None), "is_available", bool)():
        pytest.skip("this machine has one")
    put(tmp_path / "a.png")
    done = CliRunner().invoke(app, [*(word.format(folder=tmp_path) for word in words), "--device", device])
    assert isinstance(done.exception, UserError), done.exception
    assert str(done.exception) == f"The device '{device}' cannot be used here; use --device cpu."
    assert not (tmp_path / "out").exists()


def test_wrong_weights_name_the_first_missing_key(tmp_path: Path) -> None:
    folder = shutil.copytree(shipped_folder("nano-clip"), tmp_path / "model")
    path = folder / "open_clip_model.safetensors"
    weights = load_file(path)
    lost = {key: value for key, value in weights.items() if "visual.transformer" not in key}
    save_file(lost, path)
    with pytest.raises(UserError, match=r'its weights lack "visual\.transformer\.resblocks\.0\.ln_1\.weight"\); write its'):
        load_backbone(str(folder))
    save_file(weights | {"visual.proj": torch.zeros(2, 2)}, path)
    with pytest.raises(UserError, match=r"size mismatch for visual\.proj.* write its files again"):
        load_backbone(str(folder))


def test_a_model_of_oblong_images_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(shipped_folder("nano-clip"), tmp_path / "model")
    path = folder / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["model_cfg"]["vision_cfg"]["image_size"] = [48, 96]
    path.write_text(json.dumps(content))
    weights = load_file(folder / "open_clip_model.safetensors")
    positions = weights["visual.positional_embedding"]
    weights["visual.positional_embedding"] = torch.cat([positions, positions[1:]])
    save_file(weights, folder / "open_clip_model.safetensors")
    with pytest.raises(UserError, match="reads images of 48 x 96 pixels, and only square ones can be adapted"):
        load_backbone(str(folder))
    assert [check_square("x", size) for size in (48, (48, 48), [48, 48])] == [48] * 3


# What is given as a path


def test_labels_may_come_through_a_pipe(tmp_path: Path) -> None:
    for domain in ("photo", "sketch", "cartoon"):
        class_folders(tmp_path / "pacs" / domain, ("star", "circle"))
    own = f"{sys.executable} -m grpo_tta"
    bench = f"{own} bench --data {tmp_path}/pacs --domain all --methods zero-shot --out {tmp_path}/out"
    lines = "<(printf 'circle\\nstar\\n')"
    pairs = """<(echo '{"circle": "disc", "star": "star"}')"""
    predict = f"{own} predict {tmp_path}/pacs/photo --labels-file {lines} --csv"
    for command in (predict, f"{bench} --labels-file {pairs}"):
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    classes = json.loads((tmp_path / "out" / "run.json").read_text())["classes"]
    assert classes == {f"pacs-{domain}": ["disc", "star"] for domain in ("cartoon", "photo", "sketch")}
    done = subprocess.run(["bash", "-c", f"{bench}2 --workers 2 --labels-file {lines}"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 2)  # a word about nano-clip, and the error
    assert "cannot read a pipe" in done.stderr


@pytest.mark.parametrize("name", ["names.txt", "names.json"])
def test_names_that_repeat_in_openais_list_are_told_apart(tmp_path: Path, name: str) -> None:
    put(tmp_path / "a.png", png(200, 64))
    twice = [key for key, name in imagenet_names().items() if name == "missile"]
    pairs = {twice[0]: "missile", twice[1]: "missile", "n01440764": "tench"}
    text = json.dumps(pairs) if name.endswith("json") else "\n".join(pairs.values())
    (tmp_path / name).write_text(text)
    words = ["predict", str(tmp_path / "a.png"), "--labels-file", str(tmp_path / name), "--json"]
    (answer,) = json.loads(CliRunner().invoke(app, words).stdout)["predictions"]
    shares = answer["probabilities"]
    assert list(shares) == ["missile", "missile (2)", "tench"]
    assert shares["missile"] == pytest.approx(shares["missile (2)"])  # one name, one text: an exact tie
    wrong = {"a": "cat", "b": "cat", "c": "tench"}
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    done = CliRunner().invoke(app, ["predict", str(tmp_path / "a.png"), "--labels-file", str(tmp_path / "wrong.json")])
    assert "'cat' occurs more than once" in str(done.exception)


def test_an_image_in_base64_is_no_path(tmp_path: Path) -> None:
    long = base64.b64encode(png(1, 200) * 40).decode()
    for text in (long, long[:200], f"data:image/png;base64,{long}", base64.b64encode(b"\xff\xd8\xff\xe0" * 60).decode()):
        for act in (lambda text=text: load_image(text), lambda text=text: find_images([Path(text)])):
            with pytest.raises(UserError, match="this is the image itself in base64, so decode it") as caught:
                act()
            assert len(str(caught.value)) < 500
    with pytest.raises(UserError, match=r"no such file; check the path\."):
        load_image(tmp_path / "nowhere.png")


def test_what_may_not_be_opened_is_not_called_damaged(tmp_path: Path) -> None:
    """A file in a folder that cannot be entered, and a file without rights, as another user sees them."""
    for name in ("closed/a.png", "open/a.png", "open/b.png"):
        put(tmp_path / name, png(200, 64))
    open_to_others(tmp_path)
    (tmp_path / "closed").chmod(0)
    (tmp_path / "open" / "b.png").chmod(0)
    (tmp_path / "cache").mkdir(mode=0o777)
    (tmp_path / "cache").chmod(0o777)
    words = as_nobody([sys.executable, "-m", "grpo_tta", "predict"])
    environment = os.environ | {"GRPO_TTA_CACHE": str(tmp_path / "cache"), "HOME": "/nonexistent"}

    def predict(path: Path) -> tuple[int, str]:
        done = subprocess.run([*words, str(path), "--labels", TWO, "--csv"], capture_output=True, text=True, env=environment)
        return done.returncode, done.stderr

    inside = predict(tmp_path / "closed" / "a.png")
    beside = predict(tmp_path / "open")
    (tmp_path / "closed").chmod(0o755)
    assert inside[0] == 2
    assert inside[1].endswith("(Permission denied); check the rights of its folder.\n"), inside[1]
    assert inside[1].count("\n") == 1
    assert beside[0] == 1
    first, summary = beside[1].splitlines()
    assert first.endswith("b.png: cannot be opened (Permission denied); check the rights of the file and its folder.")
    assert summary.startswith("1 answered, 1 unreadable")


def test_what_was_left_out_is_said_and_kept(tmp_path: Path) -> None:
    class_folders(tmp_path / "mine", ("star", "circle"))
    (tmp_path / "mine" / "heart").mkdir()
    put(tmp_path / "mine" / "star" / "notes.txt", b"x")
    words = ["bench", "--data", str(tmp_path / "mine"), "--methods", "zero-shot", "--out", str(tmp_path / "out")]
    refused = grpo_tta(*words)
    assert refused.returncode == 2
    assert b"no image in the class folder heart; add images, remove the folder, or keep the class with" in refused.stderr
    done = grpo_tta(*words, "--allow-empty", "--report")
    note, *lines = done.stderr.decode().splitlines()
    assert note.startswith("nano-clip knows drawings alone")
    assert [line.partition("mine: ")[2] for line in lines] == [
        "skipped what is not read as an image (1 .txt).",
        "classes without an image: heart.",
    ]
    kept = json.loads((tmp_path / "out" / "run.json").read_text())
    assert kept["notes"] == {"mine": lines}
    assert kept["classes"] == {"mine": ["circle", "heart", "star"]}
    page = (tmp_path / "out" / "report" / "report.html").read_text()
    assert "classes without an image: heart." in page
    (tmp_path / "mine" / "star" / "notes.txt").unlink()
    assert grpo_tta(*words, "--allow-empty").returncode == 0  # what lies beside the images is not what they are


def test_folders_of_parts_and_domains_are_chosen(tmp_path: Path) -> None:
    for part in ("Training", "Testing"):
        class_folders(tmp_path / "mine" / part, ("star", "circle"))
    words = ["bench", "--data", str(tmp_path / "mine"), "--methods", "zero-shot", "--out"]
    refused = CliRunner().invoke(app, [*words, str(tmp_path / "a")])
    assert "or --split Testing" in str(refused.exception)
    invoke(*words, str(tmp_path / "a"), "--split", "Testing")
    invoke(*words, str(tmp_path / "b"), "--domain", "all")
    tasks = [list(json.loads((tmp_path / name / "run.json").read_text())["tasks"]) for name in "ab"]
    assert tasks == [["mine-Testing"], ["mine-Testing", "mine-Training"]]


def test_forks_after_use_are_torchs_own_limit() -> None:
    """OpenMP's threads do not survive a fork. One thread in the child, or a child that is spawned, works; see the docs."""
    code = """
import os, sys, torch
torch.set_num_threads(2)
from grpo_tta import GRPOTTA
from PIL import Image
found = GRPOTTA("nano-clip", ["star", "heart"])
before = found.predict(Image.new("RGB", (64, 64), "red"))
pid = os.fork()
if pid == 0:
    torch.set_num_threads(1)
    after = found.predict(Image.new("RGB", (64, 64), "red"))
    os._exit(0 if abs(after.probability - before.probability) < 1e-4 else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=300, capture_output=True)
    assert done.returncode == 0, done.stderr
