"""`grpo_tta.pipeline` beside transformers' own pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

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
    with pytest.raises(UserError, match="not fetched from the web"):
        ask("https://example.com/cat.png", ["star", "heart"])
    with pytest.raises(UserError, match="at least two"):
        ask(photos()[0], ["star"])
    with pytest.raises(UserError, match=r"exactly one \{\}"):
        ask(photos()[0], ["star", "heart"], hypothesis_template="a photo")
    with pytest.raises(UserError, match="not int"):
        ask(7, ["star", "heart"])  # type: ignore[call-overload]
    assert ask([], ["star", "heart"]) == []
