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
from safetensors.torch import load_file, save_file

from grpo_tta import GRPOTTA, GRPOSettings, Prediction, UserError, ViewSettings
from grpo_tta import classifier as classifier_module
from grpo_tta.backbones import prompts as prompts_module
from grpo_tta.backbones.base import Backbone
from grpo_tta.baselines.registry import known_methods
from grpo_tta.classifier import classify
from grpo_tta.data import nano
from grpo_tta.engine.encode import encode_for, encode_images
from grpo_tta.engine.parameters import NormAffine
from grpo_tta.images.read import image_key
from grpo_tta.method.candidates import Sample
from grpo_tta.method.grpo import grpo_method
from grpo_tta.method.online_settings import ONLINE
from grpo_tta.method.prediction import View0
from grpo_tta.method.settings import DEFAULT, FAST

LABELS = list(nano.TASKS["source"].classes)


QUICK = replace(DEFAULT, views=ViewSettings(views=3, content_free=1))


def images(n: int, task: str = "gaussian-noise") -> list[Image.Image]:
    return [Image.fromarray(item.image) for item in nano.items(task, "tuning", n)]


@pytest.fixture(scope="module")
def classifier(nano_backbone: Backbone) -> GRPOTTA:
    return GRPOTTA(nano_backbone, LABELS)


@pytest.fixture(scope="module")
def quick(nano_backbone: Backbone) -> GRPOTTA:
    return GRPOTTA(nano_backbone, LABELS, settings=QUICK, batch=2)


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


def test_explain_shows_the_whole_episode(classifier: GRPOTTA) -> None:
    image = images(3)[2]
    explained = classifier.explain(image)
    assert explained.prediction.probabilities == pytest.approx(classifier.predict(image).probabilities, abs=1e-5)
    assert len(explained.views) == DEFAULT.views.views
    assert len(explained.steps) == DEFAULT.steps.count
    for view in explained.views:
        assert sum(c.advantage for c in view.candidates) == pytest.approx(0, abs=1e-5)
        assert all(len(c.probabilities) == DEFAULT.steps.count for c in view.candidates)
        assert [c.label for c in view.candidates] == [c.label for c in explained.views[0].candidates]  # one group per image
    assert explained.steps[0].kl == pytest.approx(0, abs=1e-6)
    assert sum(explained.content_free.values()) == pytest.approx(1, abs=1e-5)


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


def test_other_labels_need_no_model_and_no_text_that_is_cached(
    nano_backbone: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Counted, not timed: nothing is loaded, and the text of ten labels is encoded once for all."""
    monkeypatch.setenv("GRPO_TTA_CACHE", str(tmp_path))
    encoded: list[int] = []
    encode = prompts_module.encode_classes

    def counted(backbone: Backbone, labels: list[str], templates: list[str]) -> torch.Tensor:
        encoded.append(len(labels) * len(templates))
        return encode(backbone, labels, templates)

    monkeypatch.setattr(prompts_module, "encode_classes", counted)
    first = GRPOTTA(nano_backbone, ["cat", "dog"], templates=("a {}", "one {}"), settings=QUICK, seed=3)
    fresh = GRPOTTA(nano_backbone, LABELS[:10], templates=("a {}", "one {}"), settings=QUICK, seed=3)
    assert encoded == [4, 20]

    def refuse(*arguments: object, **more: object) -> None:
        raise AssertionError("the model was loaded again")

    monkeypatch.setattr(classifier_module, "load_backbone", refuse)
    monkeypatch.setattr(classifier_module, "check_backbone", refuse)
    other = first.with_labels(LABELS[:10])
    assert encoded == [4, 20]
    assert other.backbone is first.backbone
    assert first.labels == ("cat", "dog")
    (image,) = images(1)
    assert other.predict(image) == fresh.predict(image)
    again = other.with_labels(["cat", "dog"], templates="the {}")
    assert (again.labels, again.policy.prompts.templates, again.seed) == (("cat", "dog"), ("the {}",), 3)
    assert encoded == [4, 20, 2]
    assert other.with_labels(LABELS[:10]).policy is other.policy
    kept = list(tmp_path.rglob("*.safetensors"))
    other.with_labels(["x", "y"], cache=False)
    assert list(tmp_path.rglob("*.safetensors")) == kept
    for labels, message in ((["a"], "at least two"), ("ab", "list of class names")):
        with pytest.raises(UserError, match=message):
            first.with_labels(labels)


def test_labels_may_have_other_names_in_prompts(nano_backbone: Backbone) -> None:
    named = GRPOTTA(nano_backbone, {"a": "circle", "b": "star"}, settings=QUICK)
    plain = GRPOTTA(nano_backbone, ["circle", "star"], settings=QUICK)
    assert named.labels == ("a", "b")
    assert torch.equal(named.policy.text_features, plain.policy.text_features)
    assert plain.with_labels({"a": "circle", "b": "star"}).labels == ("a", "b")
    other = named.with_labels(["a", "b"])  # labels alone: no names of before
    assert not torch.equal(other.policy.text_features, named.policy.text_features)
    assert named.with_labels({"a": "circle", "b": "star"}).policy is named.policy
    twice = named.with_labels({"a": "missile", "b": "missile", "c": "tench"})
    features = twice.policy.text_features
    assert torch.equal(features[0], features[1])
    for wrong, message in (({"a": "cat", "b": "cat"}, "'cat' occurs more than once"), ({"": "cat", "b": "dog"}, "is empty")):
        with pytest.raises(UserError, match=message):
            named.with_labels(wrong)


def test_the_first_answer_comes_before_the_last_image_is_read(quick: GRPOTTA, tmp_path: Path) -> None:
    taken: list[int] = []

    def stream() -> Iterator[Image.Image]:
        for number, image in enumerate(images(5)):
            taken.append(number)
            yield image

    answers = quick.predict_iter(stream())
    assert taken == []
    first = next(answers)
    assert taken == [0, 1]  # a batch
    found = [first, *answers]
    for a, b in zip(found, quick.predict(images(5)), strict=True):
        assert list(a.probabilities.values()) == pytest.approx(list(b.probabilities.values()), abs=1e-5)
    taken.clear()
    next(quick.predict_iter(stream(), batch=1))
    assert taken == [0]


def test_a_bad_image_has_its_error_in_its_place_or_ends_the_iteration(quick: GRPOTTA, tmp_path: Path) -> None:
    some: list = images(5)
    some[1], some[4] = tmp_path / "missing.png", b"no image"
    found = list(quick.predict_iter(some, errors="return"))
    assert [type(answer) for answer in found] == [Prediction, UserError, Prediction, Prediction, UserError]
    assert "missing.png: no such file" in str(found[1])
    assert "in bytes: not an image" in str(found[4])
    answers = quick.predict_iter(some)
    assert next(answers) == found[0]
    with pytest.raises(UserError, match="no such file"):
        next(answers)
    with pytest.raises(UserError, match="Unknown errors 'ignore'; choose raise or return"):
        quick.predict_iter(some, errors="ignore")  # type: ignore[call-overload]
    with pytest.raises(UserError, match="batch of 0 images"):
        quick.predict_iter(some, batch=0)
    assert [type(answer) for answer in quick.predict_iter(images(1)[0])] == [Prediction]  # type: ignore[call-overload]


def test_classify_numbers_the_same_answers(quick: GRPOTTA) -> None:
    some = images(3)

    def load(number: int) -> Image.Image:
        if number == 1:
            raise OSError("the disk")
        return some[number]

    found = list(classify(quick, load, 3, batch=2))
    assert [number for number, _ in found] == [0, 1, 2]
    assert found[1][1] == "OSError: the disk"
    for number in (0, 2):
        answer = found[number][1]
        assert isinstance(answer, Prediction)
        assert answer.probabilities == pytest.approx(quick.predict(some[number]).probabilities, abs=1e-5)


@pytest.mark.parametrize("settings", [QUICK, FAST, replace(QUICK, group=Sample(3))], ids=["quick", "fast", "sample"])
def test_adapt_batch_is_predict(nano_backbone: Backbone, settings: GRPOSettings) -> None:
    """On pixels, and on the views, content-free views and ids that `predict` makes."""
    classifier, some = GRPOTTA(nano_backbone, LABELS, settings=settings, seed=5), images(3)
    expected = torch.tensor([list(answer.probabilities.values()) for answer in classifier.predict(some)])
    before = torch.tensor([list(answer.probabilities_before.values()) for answer in classifier.predict(some)])
    ids = [image_key(image) for image in some]
    made = encode_images(classifier.policy, some, ids, settings.views, 5)  # every view, whatever an early exit would leave out
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in some])
    for found in (
        classifier.adapt_batch(made.views, content_free=made.content_free, image_ids=ids),
        classifier.adapt_batch(pixels),
        classifier.adapt_batch(pixels.float() / 255),
        classifier.adapt_batch((pixels.double() / 255).requires_grad_()),
    ):
        assert found.after.shape == (3, len(LABELS))
        assert torch.allclose(found.after.exp(), expected, atol=1e-5)
        assert torch.allclose(found.before.exp(), before, atol=1e-5)
    with torch.inference_mode():
        assert torch.allclose(classifier.adapt_batch(pixels).after.exp(), expected, atol=1e-5)


def test_views_without_names_are_named_by_their_pixels(nano_backbone: Backbone) -> None:
    classifier = GRPOTTA(nano_backbone, LABELS, settings=replace(QUICK, group=Sample(3)))
    views, content_free = torch.randn(2, 4, 3, 48, 48), torch.randn(2, 1, 3, 48, 48)
    together = classifier.adapt_batch(views, content_free=content_free).after
    alone = classifier.adapt_batch(views[1:, :3], content_free=content_free[1:]).after
    assert torch.allclose(together[1:], alone, atol=1e-4)


@pytest.mark.parametrize(
    ("pixels", "more", "message"),
    [
        (torch.zeros(3, 8, 8), {}, r"not \[3, 8, 8\]"),
        (torch.zeros(0, 3, 8, 8), {}, r"not \[0, 3, 8, 8\]"),
        ([1], {}, "not list"),
        (torch.zeros(1, 4, 8, 8), {}, r"must be \[3, H, W\], not \[4, 8, 8\]"),
        (torch.full((1, 3, 8, 8), 2.0), {}, r"lie in \[0, 1\], not in \[2, 2\]; divide by 255"),
        (torch.zeros(1, 3, 8, 8), {"image_ids": ["a", "b"]}, "2 image_ids do not name 1 images"),
        (torch.zeros(1, 3, 8, 8), {"content_free": torch.zeros(1, 1, 3, 48, 48)}, "go with views"),
        (torch.zeros(1, 2, 3, 48, 48), {"content_free": torch.zeros(1, 1, 3, 48, 48)}, r"views must be \[1, 3, 3, 48, 48\]"),
        (torch.zeros(1, 3, 3, 48, 48), {}, r"content_free must be \[1, 1, 3, 48, 48\] .* not \[1, 0, 3, 48, 48\]"),
        (torch.zeros(1, 3, 3, 48, 48), {"content_free": torch.zeros(2, 1, 3, 48, 48)}, "content_free must be"),
        (torch.zeros(1, 3, 3, 40, 40), {}, r"not \[1, 3, 3, 40, 40\]"),
        (torch.zeros(1, 3, 3, 48, 48, dtype=torch.uint8), {}, "normalised floats, not uint8"),
        (torch.full((1, 3, 3, 48, 48), torch.nan), {"content_free": torch.zeros(1, 1, 3, 48, 48)}, "NaN"),
    ],
)  # fmt: skip
def test_an_unusable_batch_is_refused(quick: GRPOTTA, pixels: torch.Tensor, more: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        quick.adapt_batch(pixels, **more)


def test_embeddings_are_the_adapted_models_features_of_the_untouched_image(nano_backbone: Backbone, quick: GRPOTTA) -> None:
    some = images(3)
    keys = [image_key(image) for image in some]
    frozen = encode_for([grpo_method(QUICK)], quick.policy, some, keys, QUICK.views, 0).encoded.features[:, 0]
    adapted = quick.embed(some)
    assert adapted.shape == frozen.shape
    assert adapted.norm(dim=-1).tolist() == pytest.approx([1] * 3, abs=1e-5)
    assert not adapted.requires_grad
    assert not torch.allclose(adapted, frozen, atol=1e-4)
    assert torch.allclose(quick.embed(some[1]), adapted[1], atol=1e-5)
    no_step = GRPOTTA(nano_backbone, LABELS, settings=replace(QUICK, steps=replace(QUICK.steps, count=0)))
    assert torch.allclose(no_step.embed(iter(some)), frozen, atol=1e-6)
    assert quick.embed([]).shape == (0, frozen.shape[1])
    view0 = GRPOTTA(nano_backbone, LABELS, settings=replace(QUICK, predict=View0()))  # the answer of these features alone
    expected = torch.tensor([list(answer.probabilities.values()) for answer in view0.predict(some)])
    assert torch.allclose(view0.policy.log_probs(view0.embed(some)).exp(), expected, atol=1e-5)


def test_predictions_may_bring_their_embeddings(quick: GRPOTTA) -> None:
    """In one pass what `predict` and `embed` say in two; the classifier itself stays as it is."""
    some = images(3)
    plain, found = quick.predict(some), quick.with_embeddings().predict(some)
    assert [answer.embedding for answer in plain] == [None] * 3
    for one, other in zip(plain, found, strict=True):
        assert one.label == other.label
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)
        assert "embedding" not in other.plain()
    assert torch.allclose(torch.stack([e for answer in found if (e := answer.embedding) is not None]), quick.embed(some))
    other_labels = quick.with_embeddings().with_labels(["a", "b"]).predict(some[0])
    assert other_labels.embedding is not None


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    """Three of 1,950 x 1,300 pixels, large enough to be reduced while they are decoded."""
    paths = []
    for number, image in enumerate(images(3)):
        paths.append(tmp_path / f"{number}.jpg")
        image.resize((1950, 1300), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def test_answers_do_not_depend_on_the_workers(nano_backbone: Backbone, photographs: list[Path], tmp_path: Path) -> None:
    mixed: list = [*photographs, tmp_path / "missing.jpg", images(1)[0], photographs[0].read_bytes(), photographs[1]]
    found = [
        list(GRPOTTA(nano_backbone, LABELS, settings=QUICK, batch=2, workers=workers).predict_iter(mixed, errors="return"))
        for workers in (0, 1, 3)
    ]
    assert [type(answer) for answer in found[0]] == [Prediction] * 3 + [UserError] + [Prediction] * 3
    for one, two, three in zip(*found, strict=True):
        assert str(one) == str(two) == str(three)
    with pytest.raises(UserError, match="-1 workers"):
        GRPOTTA(nano_backbone, LABELS, workers=-1)


def test_the_next_batch_of_a_generator_of_images_is_left_alone(nano_backbone: Backbone, photographs: list[Path]) -> None:
    taken: list[object] = []

    def stream(items: list) -> Iterator:
        for item in items:
            taken.append(item)
            yield item

    classifier = GRPOTTA(nano_backbone, LABELS, settings=QUICK, batch=1, workers=1)
    next(classifier.predict_iter(stream(images(3))))
    assert len(taken) == 1
    taken.clear()
    next(classifier.predict_iter(stream(photographs)))
    assert len(taken) == 2  # the second is read ahead


def test_a_large_photograph_has_one_answer_whatever_decodes_it(quick: GRPOTTA, photographs: list[Path]) -> None:
    path = photographs[0]
    answer = quick.predict(path)
    with path.open("rb") as file:
        assert quick.predict(file) == answer
    assert quick.predict(path.read_bytes()) == answer
    (_, classified), *_ = classify(quick, lambda number: path, 1, 1)
    assert classified == answer


def test_full_resolution_takes_the_same_crops(nano_backbone: Backbone, photographs: list[Path]) -> None:
    settings = replace(QUICK, views=replace(QUICK.views, views=6))
    whole = GRPOTTA(nano_backbone, LABELS, settings=replace(settings, views=replace(settings.views, full_resolution=True)))
    reduced = GRPOTTA(nano_backbone, LABELS, settings=settings)
    assert (whole.least_side, reduced.least_side) == (None, 158)  # twice 48 / sqrt(0.375), rounded up
    for path in photographs:
        one, other = whole.predict(path), reduced.predict(path)
        assert one != other
        assert list(other.probabilities.values()) == pytest.approx(list(one.probabilities.values()), abs=0.1)
        assert other.label == one.label


# Along a stream


@pytest.fixture(scope="module")
def drawings() -> list[Image.Image]:
    """Two minibatches and a rest."""
    return [Image.fromarray(nano.item("gaussian-noise", "tuning", number).image) for number in range(36)]


def test_a_stream_is_the_method_of_that_name(classifier: GRPOTTA, drawings: list[Image.Image]) -> None:
    answers = list(classifier.stream(iter(drawings)))
    method = known_methods()["grpo-tta-online"]
    keys = [image_key(one) for one in drawings]
    batch = encode_for([method], classifier.policy, drawings, keys, ViewSettings(), classifier.seed)
    adaptation, _ = method(classifier.policy, batch, {})
    for answer, row in zip(answers, adaptation.after.exp(), strict=True):
        assert list(answer.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-4)
    assert (answers[0].forwards, answers[0].backwards) == adaptation.cost.of(0)


def test_a_stream_that_loads_its_state_goes_on_to_identical_answers(
    classifier: GRPOTTA, nano_backbone: Backbone, drawings: list[Image.Image], tmp_path: Path
) -> None:
    alone = classifier.predict(drawings[0])
    whole = list(classifier.stream(drawings))
    first = classifier.stream(drawings)
    for _ in range(21):  # killed inside the second minibatch
        next(first)
    save_file(first.state_dict(), tmp_path / "s.safetensors")
    state = load_file(tmp_path / "s.safetensors")
    second = GRPOTTA(nano_backbone, LABELS).stream(drawings[16:])
    second.load_state_dict(state)
    assert first.answered == second.answered == 16
    assert list(second) == whole[16:]
    assert classifier.predict(drawings[0]) == alone, "the object remembers nothing"
    with pytest.raises(UserError, match="another model, labels"):
        GRPOTTA(nano_backbone, LABELS, seed=1).stream(drawings).load_state_dict(state)


def test_a_stream_takes_order_and_settings_seriously(classifier: GRPOTTA, drawings: list[Image.Image]) -> None:
    few = replace(ONLINE, update_size=2, gate=None)  # six images say nothing to the gate
    forwards = [answer.probability for answer in classifier.stream(drawings[:6], settings=few)]
    backwards = [answer.probability for answer in classifier.stream(drawings[5::-1], settings=few)][::-1]
    assert max(abs(a - b) for a, b in zip(forwards, backwards, strict=True)) > 1e-3
    found = list(classifier.stream([drawings[0], "nothing.png", drawings[1]], "return", settings=few))
    assert [isinstance(one, UserError) for one in found] == [False, True, False]
    with pytest.raises(UserError, match="put a single one into a list"):
        classifier.stream(drawings[0])
    with pytest.raises(UserError, match="protocol online"):
        classifier.stream(drawings, settings=replace(few, protocol="batch", answer_after=True))
    with pytest.raises(UserError, match="Unknown errors"):
        classifier.stream(drawings, "ignore")  # type: ignore[call-overload]
