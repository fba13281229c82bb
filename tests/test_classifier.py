"""The public object on the shipped model."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from grpo_tta import GRPOTTA, GRPOSettings, UserError, ViewSettings
from grpo_tta.backbones.base import Backbone
from grpo_tta.data import nano
from grpo_tta.engine.parameters import NormAffine
from grpo_tta.method.settings import DEFAULT

LABELS = list(nano.TASKS["source"].classes)


def images(n: int, task: str = "gaussian-noise") -> list[Image.Image]:
    return [Image.fromarray(item.image) for item in nano.items(task, "tuning", n)]


@pytest.fixture(scope="module")
def classifier(nano_backbone: Backbone) -> GRPOTTA:
    return GRPOTTA(nano_backbone, LABELS)


@pytest.fixture
def unchanged(nano_backbone: Backbone) -> Iterator[None]:
    before = [p.detach().clone() for p in nano_backbone.parameters()]
    yield
    assert all(torch.equal(a, b) for a, b in zip(before, nano_backbone.parameters(), strict=True))


@pytest.mark.usefixtures("unchanged")
def test_answers_do_not_depend_on_neighbours_or_order(classifier: GRPOTTA) -> None:
    some = images(8)
    together = classifier.predict(some)
    backwards = classifier.predict(some[::-1])[::-1]
    for a, b, image in zip(together, backwards, some, strict=True):
        alone = classifier.predict(image)
        for other in (b, alone):
            assert list(a.probabilities.values()) == pytest.approx(list(other.probabilities.values()), abs=1e-4)


@pytest.mark.usefixtures("unchanged")
def test_a_call_that_raises_leaves_nothing_behind(classifier: GRPOTTA, tmp_path: Path) -> None:
    before = classifier.predict(images(1)[0])
    with pytest.raises(UserError, match="no such file"):
        classifier.predict([images(1)[0], tmp_path / "missing.png"])
    assert classifier.predict(images(1)[0]) == before


def test_threads_can_share_a_classifier(classifier: GRPOTTA) -> None:
    some = images(6)
    expected = [classifier.predict(image) for image in some]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(classifier.predict, some))
    for a, b in zip(found, expected, strict=True):
        assert list(a.probabilities.values()) == pytest.approx(list(b.probabilities.values()), abs=1e-4)


def test_explain_tells_the_whole_episode(classifier: GRPOTTA) -> None:
    image = images(3)[2]
    told = classifier.explain(image)
    assert told.prediction.probabilities == pytest.approx(classifier.predict(image).probabilities, abs=1e-5)
    assert len(told.views) == DEFAULT.selected
    assert len(told.steps) == DEFAULT.steps
    for view in told.views:
        assert sum(c.advantage for c in view.candidates) == pytest.approx(0, abs=1e-5)
        assert all(len(c.probabilities) == DEFAULT.steps for c in view.candidates)
        assert [c.label for c in view.candidates] == [c.label for c in told.views[0].candidates]  # one group an image
    assert told.steps[0].kl == pytest.approx(0, abs=1e-6)
    assert sum(told.content_free.values()) == pytest.approx(1, abs=1e-5)


def test_paths_arrays_and_images_are_the_same(classifier: GRPOTTA, tmp_path: Path) -> None:
    image = images(1)[0]
    image.save(tmp_path / "x.png")
    answers = [classifier.predict(x) for x in (image, np.asarray(image), tmp_path / "x.png", str(tmp_path / "x.png"))]
    assert all(answer == answers[0] for answer in answers)


def test_the_seed_decides_the_views(nano_backbone: Backbone) -> None:
    image = images(1)[0]
    first, again, other = (GRPOTTA(nano_backbone, LABELS, seed=seed).predict(image) for seed in (3, 3, 4))
    assert first == again
    assert first.probabilities != other.probabilities


def test_an_empty_list_has_no_answers(classifier: GRPOTTA) -> None:
    assert classifier.predict([]) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": ["a"]}, "at least two"),
        ({"labels": []}, "at least two"),
        ({"labels": ["a", "b", "a"]}, "'a' occurs more than once"),
        ({"labels": ["a", " "]}, "Label 2 is empty"),
        ({"labels": "a,b"}, "list of class names"),
        ({"templates": "a photo"}, "exactly one {}"),
        ({"templates": []}, "No template"),
        ({"settings": "best"}, "Unknown preset 'best'"),
        ({"batch": 0}, "at least 1"),
        ({"settings": GRPOSettings(tune=NormAffine(last_blocks=9))}, "has 6 blocks; use 0 to 6"),
    ],
)
def test_bad_arguments_name_the_remedy(nano_backbone: Backbone, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        GRPOTTA(nano_backbone, **{"labels": LABELS, **arguments})


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8), 7])
def test_unusable_images_are_refused(classifier: GRPOTTA, bad: object) -> None:
    with pytest.raises((UserError, TypeError)):
        classifier.predict([bad])  # type: ignore[list-item]


def test_two_labels_and_one_view_are_enough(nano_backbone: Backbone) -> None:
    settings = replace(DEFAULT, views=ViewSettings(views=1, content_free=1))
    answer = GRPOTTA(nano_backbone, ["star", "heart"], settings=settings).predict(images(1)[0])
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_damaged_weights_are_named(nano_backbone: Backbone) -> None:
    import copy

    broken = copy.deepcopy(nano_backbone)
    with torch.no_grad():
        next(iter(broken.blocks[0].parameters())).fill_(float("nan"))
    with pytest.raises(UserError, match="NaN"):
        GRPOTTA(broken, ["star", "heart"]).predict(images(1)[0])


@pytest.mark.parametrize("preset", ["default", "fast"])
def test_the_callers_torch_state_is_neither_needed_nor_touched(preset: str) -> None:
    """Under inference mode, autocast, and with random numbers of one's own, the answer is the usual one."""
    (image,) = images(1)
    usual = GRPOTTA("nano-clip", LABELS, settings=preset).predict(image)
    torch.manual_seed(7)
    wanted = torch.rand(1)
    torch.manual_seed(7)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = GRPOTTA("nano-clip", LABELS, settings=preset, cache=False).predict(image)
    assert torch.equal(torch.rand(1), wanted)
    assert found.probability == pytest.approx(usual.probability, abs=1e-5)


def test_a_image_opened_and_not_yet_read_may_be_damaged(classifier: GRPOTTA, awkward_folder: Path) -> None:
    with Image.open(awkward_folder / "e.jpg") as image, pytest.raises(UserError, match="truncated or damaged"):
        classifier.predict(image)


def test_any_iterable_will_do(classifier: GRPOTTA) -> None:
    some = images(3)
    assert [a.label for a in classifier.predict(p for p in some)] == [a.label for a in classifier.predict(some)]
    assert classifier.predict([]) == []
