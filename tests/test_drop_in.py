"""`grpo_tta.pipeline` beside transformers' own pipeline."""

from __future__ import annotations

import base64
import inspect
import io
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

import grpo_tta
from grpo_tta import GRPOTTA, GRPOSettings, UserError, ViewSettings, load_backbone
from grpo_tta.backbones.base import Backbone
from grpo_tta.engine.optim import SGD
from grpo_tta.method.prediction import Ensemble
from grpo_tta.method.rewards import Alignment
from grpo_tta.method.settings import Steps
from tests import families
from tests.families import LABELS

FROZEN = GRPOSettings(
    views=ViewSettings(views=1, content_free=0), reward=Alignment(), steps=Steps(0), predict=Ensemble(prior=0.0)
)
"""No view but the image, no step, no prior: what is left is the model itself."""
QUICK = GRPOSettings(views=ViewSettings(views=4, content_free=1), steps=Steps(1, SGD(1.0)))
TASK = "zero-shot-image-classification"


@pytest.fixture(scope="module", params=["transformers-clip", "transformers-siglip"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.write(request.param, tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return load_backbone(str(folder))


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    from transformers import AutoImageProcessor, AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(folder)
    # their pipeline pads SigLIP's text to 64 whatever the model reads; this small one reads less
    if "siglip" in str(folder):
        tokenizer_call = tokenizer.__class__.__call__

        class Shorter(tokenizer.__class__):  # type: ignore[misc, name-defined]
            def __call__(self, *arguments: Any, **more: Any) -> Any:
                return tokenizer_call(self, *arguments, **(more | {"max_length": families.SIGLIP_CONTEXT}))

        tokenizer.__class__ = Shorter
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return pipeline(TASK, model=str(folder), tokenizer=tokenizer, image_processor=processor, device="cpu")


def photos(n: int = 3) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    small = [Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)) for _ in range(n)]
    return [image.resize((90, 70), Image.Resampling.BICUBIC) for image in small]


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [list(entry) for entry in found] == [list(entry) for entry in expected]  # the same keys in the same order
    assert [entry["label"] for entry in found] == [entry["label"] for entry in expected]
    assert [entry["score"] for entry in found] == pytest.approx([entry["score"] for entry in expected], abs=1e-5)


def test_without_adaptation_it_is_theirs(folder: Path, theirs: Any, tmp_path: Path) -> None:
    ours = grpo_tta.pipeline(TASK, model=str(folder), settings=FROZEN, device=-1)
    labels = list(LABELS)
    images = photos()
    same(ours(images[0], candidate_labels=labels), theirs(images[0], candidate_labels=labels))
    paths = []
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
        paths.append(str(tmp_path / f"{number}.png"))
    same(ours(paths[0], labels), theirs(paths[0], candidate_labels=labels))
    for arguments in ({}, {"hypothesis_template": "a drawing of the {}"}):
        found = ours(paths, candidate_labels=labels, **arguments)
        expected = theirs(paths, candidate_labels=labels, **arguments)
        assert len(found) == len(expected) == 3
        for a, b in zip(found, expected, strict=True):
            same(a, b)
    found = ours([images[0]], labels)  # a list of one is still a list
    assert len(found) == 1
    same(found[0], theirs([images[0]], candidate_labels=labels)[0])
    stream = ours((image for image in images), labels)
    assert isinstance(stream, Iterator)
    for a, b in zip(stream, theirs((image for image in images), candidate_labels=labels), strict=True):
        same(a, b)


def test_with_adaptation_it_is_the_classifier(folder: Path, backbone: Backbone) -> None:
    ours = grpo_tta.pipeline(model=backbone, settings=QUICK, batch_size=2)
    classifier = GRPOTTA(backbone, LABELS, templates="This is a photo of {}.", settings=QUICK)
    for image, found in zip(photos(), ours(photos(), candidate_labels="cat,dog,red fish"), strict=True):
        scores = {entry["label"]: entry["score"] for entry in found}
        assert scores == pytest.approx(classifier.score(image), abs=1e-5)
        assert sorted(scores.values(), reverse=True) == [entry["score"] for entry in found]
        answer = classifier.predict(image)
        assert found[0]["label"] == answer.label
        if "siglip" in str(folder):  # each label for itself
            assert all(0 < score < 1 for score in scores.values())
            assert sum(scores.values()) != pytest.approx(1, abs=1e-3)
        else:
            assert scores == pytest.approx(answer.probabilities, abs=1e-6)


def test_adaptation_changes_scores(backbone: Backbone) -> None:
    frozen, adapted = (grpo_tta.pipeline(model=backbone, settings=s) for s in (FROZEN, QUICK))
    image = photos()[0]
    a, b = ({e["label"]: e["score"] for e in ask(image, LABELS)} for ask in (frozen, adapted))
    assert a != pytest.approx(b, abs=1e-6)


def test_the_call_is_theirs() -> None:
    """Every argument that their call names is taken under the same name, with the same default."""
    from transformers.pipelines import ZeroShotImageClassificationPipeline

    ours = inspect.signature(type(grpo_tta.pipeline(model="nano-clip", settings=FROZEN)).__call__).parameters
    for name, parameter in inspect.signature(ZeroShotImageClassificationPipeline.__call__).parameters.items():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            assert name in ours
    for method in (ZeroShotImageClassificationPipeline.preprocess, ZeroShotImageClassificationPipeline.__base__.__call__):
        named = set(inspect.signature(method).parameters) - {"self", "inputs", "args", "kwargs"}
        assert named <= set(ours)
    prompt = inspect.signature(ZeroShotImageClassificationPipeline.preprocess).parameters["hypothesis_template"].default
    assert ours["hypothesis_template"].default == prompt


def test_the_name_stays_the_function_whatever_is_imported() -> None:
    from grpo_tta import drop_in
    from grpo_tta.classifier import GRPOTTA as direct  # noqa: N811

    assert grpo_tta.pipeline is drop_in.pipeline
    assert grpo_tta.GRPOTTA is direct


def test_unusable_input_names_the_remedy(nano_backbone: Backbone) -> None:
    with pytest.raises(UserError, match="not 'image-to-text'; leave the task out"):
        grpo_tta.pipeline("image-to-text")
    with pytest.raises(UserError, match="Unknown model 'nothing'"):
        grpo_tta.pipeline(model="nothing")
    with pytest.raises(UserError, match="No CUDA device"):
        grpo_tta.pipeline(device=0)
    with pytest.raises(UserError, match=r"has no name, fingerprint, .*see grpo_tta\.backbones\.base\.Backbone"):
        grpo_tta.pipeline(model=object())  # type: ignore[arg-type]
    ask = grpo_tta.pipeline(model=nano_backbone)
    with pytest.raises(UserError, match="Unknown dtype 'float16'; use float32 or bfloat16"):
        grpo_tta.pipeline(dtype=torch.float16)
    with pytest.raises(UserError, match="add_special_tokens cannot be changed"):
        ask(photos()[0], ["star", "heart"], tokenizer_kwargs={"add_special_tokens": False})
    with pytest.raises(UserError, match="batch of 0 images"):
        ask(photos(), ["star", "heart"], batch_size=0)
    with pytest.raises(UserError, match=r"nowhere\.png: no such file"):
        ask("nowhere.png", ["star", "heart"])
    with pytest.raises(UserError, match="not an image in base64"):
        ask("data:image/png;base64,AAAA", ["star", "heart"])
    with pytest.raises(UserError, match="at least two"):
        ask(photos()[0], ["star"])
    with pytest.raises(UserError, match=r"exactly one \{\}"):
        ask(photos()[0], ["star", "heart"], hypothesis_template="a photo")
    with pytest.raises(UserError, match="not int"):
        ask(7, ["star", "heart"])  # type: ignore[call-overload]
    assert ask([], ["star", "heart"]) == []


class Photos(Dataset):  # type: ignore[type-arg]
    """Counts what was read of it."""

    def __init__(self, images: list[Image.Image]) -> None:
        self.images, self.read = images, 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> dict[str, Image.Image]:
        self.read += 1
        return {"image": self.images[number]}


def test_batches_of_a_call_generators_and_data_sets(backbone: Backbone) -> None:
    """A batch is read and adapted in one pass, whatever the pipeline was made with; the answers stay."""
    from transformers.pipelines.pt_utils import KeyDataset

    ours = grpo_tta.pipeline(model=backbone, settings=QUICK)
    expected = ours(photos(5), LABELS)
    data = Photos(photos(5))
    found = ours(KeyDataset(data, "image"), candidate_labels=list(LABELS), batch_size=2)  # type: ignore[no-untyped-call]
    assert isinstance(found, Iterator)
    assert data.read == 0
    first = next(found)
    assert data.read == 2
    taken: list[int] = []

    def stream() -> Iterator[Image.Image]:
        for number, image in enumerate(photos(5)):
            taken.append(number)
            yield image

    streamed = ours(stream(), LABELS, batch_size=3)  # type: ignore[call-overload]
    next(streamed)
    assert taken == [0, 1, 2]
    for answers in ([first, *found], ours(photos(5), LABELS, batch_size=5), list(ours(stream(), LABELS))):  # type: ignore[call-overload]
        assert len(answers) == 5
        for a, b in zip(answers, expected, strict=True):
            same(a, b)


def test_their_type_of_numbers(folder: Path) -> None:
    exact = grpo_tta.pipeline(model=str(folder), settings=FROZEN)
    for dtype in ("auto", "float32", torch.float32):
        same(
            grpo_tta.pipeline(model=str(folder), settings=FROZEN, dtype=dtype)(photos()[0], LABELS), exact(photos()[0], LABELS)
        )
    near = grpo_tta.pipeline(model=str(folder), settings=FROZEN, dtype=torch.bfloat16)(photos()[0], LABELS)
    scores = [{e["label"]: e["score"] for e in found} for found in (near, exact(photos()[0], LABELS))]
    assert scores[0] != scores[1]
    assert scores[0] == pytest.approx(scores[1], abs=0.1)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A web server of this machine, with an image."""
    photos()[0].save(tmp_path / "cat.png")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_web_addresses_and_base64(backbone: Backbone, address: str, tmp_path: Path) -> None:
    ours = grpo_tta.pipeline(model=backbone, settings=QUICK)
    expected = ours(photos()[0], LABELS)
    same(ours(f"{address}/cat.png", LABELS, timeout=60), expected)
    # of a tokenizer what cannot change how a prompt is read
    same(ours(photos()[0], LABELS, tokenizer_kwargs={"padding": "max_length", "truncation": True}), expected)
    assert len(list(ours((name for name in [f"{address}/cat.png"] * 3), LABELS, timeout=60, batch_size=2))) == 3
    encoded = io.BytesIO()
    photos()[0].save(encoded, "PNG")
    text = base64.encodebytes(encoded.getvalue()).decode()
    for image in (text, f"data:image/png;base64,{text}"):
        same(ours(image, LABELS), expected)
    (tmp_path / "page.html").write_text("<p>")
    with pytest.raises(UserError, match=r"missing\.png: cannot be fetched .*404"):
        ours(f"{address}/missing.png", LABELS)
    with pytest.raises(UserError, match=r"page\.html: not an image in a known format"):
        ours(f"{address}/page.html", LABELS)


def test_the_web_is_waited_for_no_longer_than_the_timeout(backbone: Backbone) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UserError, match=r"cannot be fetched .*timed out"):
        grpo_tta.pipeline(model=backbone)(f"http://127.0.0.1:{silent.getsockname()[1]}/x.png", LABELS, timeout=0.2)


def test_no_network_unless_the_user_gives_an_address(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    photos()[0].save(tmp_path / "https_cat.png")
    monkeypatch.chdir(tmp_path)
    ask = grpo_tta.pipeline(model=backbone, settings=FROZEN)
    same(ask("https_cat.png", LABELS), ask(photos()[0], LABELS))


DOCUMENTED = {
    "of the class": """
        classifier = pipeline(model=MODEL)
        found = [
            classifier(
                FILE,
                candidate_labels=["animals", "humans", "landscape"],
            ),
            classifier(
                FILE,
                candidate_labels=["black and white", "photorealist", "painting"],
            ),
        ]
    """,
    "of CLIP": """
        import torch
        clip = pipeline(
           task="zero-shot-image-classification",
           model=MODEL,
           dtype=torch.bfloat16,
           device=DEVICE
        )
        labels = ["a photo of a cat", "a photo of a dog", "a photo of a car"]
        found = [clip(FILE, candidate_labels=labels)]
    """,
    "of SigLIP": """
        import torch
        image = FILE
        candidate_labels = ["a Pallas cat", "a lion", "a Siberian tiger"]
        pipeline = pipeline(task="zero-shot-image-classification", model=MODEL, device=DEVICE, dtype=torch.bfloat16)
        found = [pipeline(image, candidate_labels=candidate_labels)]
    """,
    "of the task's guide": """
        checkpoint = MODEL
        detector = pipeline(model=checkpoint, task="zero-shot-image-classification")
        from PIL import Image
        image = Image.open(FILE)
        predictions = detector(image, candidate_labels=["fox", "bear", "seagull", "owl"])
        found = [predictions]
    """,
    "of the pipelines' tutorial": """
        from transformers.pipelines.pt_utils import KeyDataset
        dataset = [{"image": FILE}] * 3
        pipe = pipeline("zero-shot-image-classification", model=MODEL, device=DEVICE)
        found = []
        for out in pipe(KeyDataset(dataset, "image"), candidate_labels=["cat", "dog"], batch_size=8):
            found.append(out)
    """,
}
"""transformers' own examples, with a folder, a file and the CPU (-1) in place of a hub's name, a web address and a GPU (0)."""


@pytest.mark.parametrize("example", DOCUMENTED)
def test_their_documented_examples_run_with_the_import_changed(example: str, tmp_path: Path) -> None:
    """Here and there; both answer with the same keys, labels and order of types."""
    name = "transformers-siglip" if "SigLIP" in example else "transformers-clip"
    folder, image = families.write(name, tmp_path / "model"), tmp_path / "cat.png"
    photos()[0].save(image)
    names = {"MODEL": str(folder), "FILE": str(image), "DEVICE": -1}
    space: dict[str, Any] = dict(names)
    exec(inspect.cleandoc("from grpo_tta import pipeline\n" + DOCUMENTED[example]), space)
    assert space["found"]
    for answers in space["found"]:
        assert len(answers) >= 2
        assert all(list(entry) == ["score", "label"] for entry in answers)
        assert [e["score"] for e in answers] == sorted((e["score"] for e in answers), reverse=True)
