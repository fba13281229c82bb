"""The web page without a browser: shifts, what an episode holds, what is drawn, what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from grpo_tta import GRPOTTA, UserError
from grpo_tta.app.draw import (
    EMPTY,
    Compared,
    heading,
    render,
    render_comparison,
    render_error,
    render_several,
)
from grpo_tta.app.episode import SHOWN_LABELS, SHOWN_VIEWS, Group, Row, make_episode, split_labels
from grpo_tta.app.knowledge import is_photograph, knows, warnings_of
from grpo_tta.app.page import EXAMPLES, Classifiers, example, keep_if_asked, keep_table, model_for, read
from grpo_tta.app.reproduce import Asked, command, python_lines
from grpo_tta.app.several import Answered
from grpo_tta.app.shifts import SHIFTS, shift
from grpo_tta.backbones.base import Backbone
from grpo_tta.data import nano
from grpo_tta.method.settings import PRESETS
from grpo_tta.report.grids import number
from tests.service.conftest import LABELS, drawing

ASKED = Asked("mine.png", ["star", "red fish"], "none", 4, "nano-clip", "default", "a photo of a {}.")
FOGGED = replace(ASKED, kind="fog")


def photo(width: int = 90, height: int = 60) -> Image.Image:
    """A dark square on a bright ground."""
    pixels = np.full((height, width, 3), 200, np.uint8)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = (180, 40, 40)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(64, 64), (90, 60), (60, 190), (1, 3)])
@pytest.mark.parametrize("kind", SHIFTS)
def test_shifts_keep_the_shape_and_are_repeatable(kind: str, size: tuple[int, int]) -> None:
    image = photo(*size)
    found, again = (shift(image, kind, 3, 48) for _ in range(2))
    assert np.array_equal(np.asarray(found), np.asarray(again))
    assert found.size == (size if kind == "none" or min(size) <= 64 else found.size)
    assert found.mode == "RGB"
    assert kind == "none" or min(size) == 1 or not np.array_equal(np.asarray(found), np.asarray(image))


def test_large_images_are_brought_down_before_they_are_shifted() -> None:
    image = photo(600, 400)
    assert shift(image, "noise", 1, 48).size == (96, 64)
    assert shift(image, "none", 1, 48) is image


def test_severity_makes_a_shift_stronger() -> None:
    clean = np.asarray(photo(), float)
    for kind in ("noise", "blur", "fog"):
        far = [np.abs(np.asarray(shift(photo(), kind, severity, 48)) - clean).mean() for severity in (1, 3, 5)]
        assert far[0] < far[1] < far[2]
    plain = Image.new("RGB", (40, 40), (90, 120, 50))
    assert np.asarray(shift(plain, "sketch", 5, 48)).min() == 255  # nothing to draw
    assert np.asarray(shift(photo(), "sketch", 5, 48)).min() < 100  # an outline
    assert np.asarray(shift(plain, "blur", 5, 48)).std(axis=(0, 1)).max() == 0


def test_unknown_shifts_are_refused() -> None:
    with pytest.raises(UserError, match="Unknown shift 'rain'"):
        shift(photo(), "rain", 1, 48)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="Severity 6"):
        shift(photo(), "fog", 6, 48)


def test_an_episode_holds_what_predict_and_explain_say(nano_backbone: Backbone) -> None:
    classifier, image = GRPOTTA(nano_backbone, LABELS), drawing(2, "gaussian-noise")
    episode = make_episode(classifier, image)
    answer, explained = classifier.predict(image), classifier.explain(image)
    assert (episode.before, episode.after) == (answer.label_before, answer.label)
    assert episode.percent_after == pytest.approx(100 * answer.probability, abs=1e-3)
    assert len(episode.bars) == SHOWN_LABELS
    for bar in episode.bars:
        assert bar.after == pytest.approx(100 * answer.probabilities[bar.label], abs=1e-3)
        assert bar.before == pytest.approx(100 * answer.probabilities_before[bar.label], abs=1e-3)
    assert answer.label_before in [bar.label for bar in episode.bars]
    assert episode.rest[0] == len(LABELS) - SHOWN_LABELS
    assert sum(bar.after for bar in episode.bars) + episode.rest[2] == pytest.approx(100)
    assert [view.number for view in episode.views] == [view.view for view in explained.views]
    (group,) = episode.groups  # shared by all views
    for k, row in enumerate(group.rows):
        of_views = [view.candidates[k] for view in explained.views]
        assert row.label == of_views[0].label
        assert row.advantage == pytest.approx(np.mean([c.advantage for c in of_views]), abs=1e-5)
        assert row.percents == pytest.approx([100 * np.mean([c.probabilities[0] for c in of_views])], abs=1e-3)
        assert row.answer == pytest.approx(100 * answer.probabilities[row.label], abs=1e-3)
    assert max(row.width for row in group.rows) == 50
    assert episode.milliseconds > 0


def test_view_0_is_shown_as_the_model_sees_it(nano_backbone: Backbone) -> None:
    import base64
    import io

    image = drawing(0, "gaussian-noise")
    episode = make_episode(GRPOTTA(nano_backbone, LABELS), image)
    (first,) = [view for view in episode.views if view.number == 0]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(first.image.split(",")[1]))), float)
    expected = (nano_backbone.preprocess(image) * nano_backbone.std[:, None, None] + nano_backbone.mean[:, None, None]).numpy()
    assert np.abs(shown - 255 * expected.transpose(1, 2, 0)).max() <= 1


def test_the_paper_preset_has_a_group_per_view(nano_backbone: Backbone) -> None:
    episode = make_episode(GRPOTTA(nano_backbone, LABELS, settings="paper"), drawing(0, "gaussian-noise"))
    assert len(episode.groups) == len(episode.views) == 6
    assert all(len(group.rows) == 3 and len(group.rows[0].percents) == 3 for group in episode.groups)
    assert len(episode.steps) == 3
    _, trace = render(episode, ASKED, "cpu", 64)
    assert trace.count("<caption>Group of view") == 6
    assert "before step 3" in trace


def test_labels_are_escaped_and_nothing_comes_from_outside(nano_backbone: Backbone) -> None:
    labels = ["<b>star</b>", "heart & co", '"fish"']
    answer, trace = render(make_episode(GRPOTTA(nano_backbone, labels), drawing(0, "gaussian-noise")), FOGGED, "cpu", 64)
    for html in (answer, trace):
        assert "<b>star" not in html
        assert "heart &amp; co" in html
        assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:)", html)
    assert "fog, severity 4" in answer


def test_equal_rewards_are_shown_as_no_step(nano_backbone: Backbone) -> None:
    episode = make_episode(GRPOTTA(nano_backbone, LABELS), drawing(0, "gaussian-noise"))
    episode = replace(episode, updated=False, before="star", after="star")
    answer, trace = render(episode, ASKED, "cpu", 64)
    assert "no step was taken" in answer
    assert "No step was taken" in trace


@pytest.mark.parametrize(
    ("value", "digits", "sign", "text"),
    [(-0.00001, 3, True, "0.000"), (0.0, 2, False, "0.00"), (-1.5, 1, False, "−1.5"), (0.25, 2, True, "+0.25")],
)
def test_numbers_are_rounded_with_a_true_minus_sign_and_none_before_zero(
    value: float, digits: int, sign: bool, text: str
) -> None:
    assert number(value, digits, sign) == text


def test_labels_are_split_at_commas_and_lines() -> None:
    assert split_labels(" star, heart\nred fish,,\n") == ["star", "heart", "red fish"]
    with pytest.raises(UserError, match="at most 500"):
        split_labels(",".join(map(str, range(501))))


def test_a_model_is_loaded_once_and_labels_that_stay_are_not_read_again(nano_backbone: Backbone) -> None:
    loaded: list[str] = []

    def load(name: str) -> Backbone:
        loaded.append(name)
        return nano_backbone

    classifiers = Classifiers(load)
    first = classifiers.get("nano-clip", ["a", "b"], "{}", "default")
    assert classifiers.get("nano-clip", ["a", "b"], "{}", "default").policy is first.policy
    for preset in ("paper", "default"):
        other = classifiers.get("nano-clip", ["a", "b", "c"], "a {}", preset)
        assert other.labels == ("a", "b", "c")
        assert other.policy.prompts.templates == ("a {}",)
        assert other.settings == PRESETS[preset]
    assert first.labels == ("a", "b")
    assert loaded == ["nano-clip"]
    with pytest.raises(UserError, match="at least two"):
        classifiers.get("nano-clip", ["a"], "{}", "default")
    assert classifiers.get("nano-clip", ["a", "b"], "{}", "default").labels == ("a", "b")  # what failed leaves nothing behind


def test_the_examples_are_there() -> None:
    for task, place in EXAMPLES:
        image, labels, template = example(task, place)
        assert image.size == (64, 64)
        assert labels.count(",") >= 9
        assert "{}" in template


def test_the_page_says_what_each_model_knows() -> None:
    head = heading(["nano-clip", "photo-clip", "ViT-B-16/openai"])
    assert "nano-clip knows drawings" in head
    assert "photo-clip knows small photographs" in head
    assert "openai" not in head
    assert "depends" in knows("ViT-B-16/openai")


def colourful(width: int, height: int) -> Image.Image:
    """As many colours as a photograph has."""
    y, x = np.mgrid[:height, :width]
    waves = [127 * (1 + np.sin(x / a + y / b)) for a, b in ((31.0, 17.0), (13.0, 41.0), (57.0, 9.0))]
    return Image.fromarray(np.stack(waves, -1).astype(np.uint8))


def test_photographs_are_known_by_colours_or_by_fine_detail() -> None:
    assert is_photograph(colourful(320, 240)) is True
    assert is_photograph(photo(320, 240)) is False
    assert is_photograph(drawing(3, "source").resize((256, 256))) is False
    rng = np.random.default_rng(0)
    light = np.linspace(0.3, 1.5, 320)[None, :, None] + rng.normal(0, 0.1, (240, 320, 1))
    brown = np.clip(np.array([140, 110, 80]) * light, 0, 255).astype(np.uint8)  # sand, or plumage
    assert is_photograph(Image.fromarray(brown)) is True
    assert is_photograph(Image.fromarray(brown).resize((20, 15)).resize((320, 240))) is False
    lines = np.where(np.arange(320) % 4 < 2, 0, 255) * np.ones((240, 1))  # detail without colours: a bar code
    assert is_photograph(Image.fromarray(lines.astype(np.uint8)).convert("RGB")) is False
    assert is_photograph(colourful(90, 60)) is None


def test_an_upload_gets_a_model_that_may_know_it() -> None:
    offered = ["nano-clip", "photo-clip", "other"]
    assert model_for(True, "nano-clip", offered) == "photo-clip"
    assert model_for(True, "other", offered) == "other"
    assert model_for(False, "nano-clip", offered) == model_for(None, "nano-clip", offered) == "nano-clip"
    assert model_for(True, "nano-clip", ["nano-clip"]) == "nano-clip"


def test_what_a_model_does_not_know_is_said() -> None:
    assert warnings_of("nano-clip", ["star", "Heart"], False) == []
    image, labels = warnings_of("nano-clip", ["star", "my cat", "aa", "bb", "cc"], True)
    assert image.startswith("This looks like a photograph.")
    assert "my cat, aa, bb and 1 more" in labels
    assert warnings_of("photo-clip", ["cat", "dog"], True) == []
    assert warnings_of("photo-clip", ["cat", "dog"], None) == []
    assert "not look like a photograph" in warnings_of("photo-clip", ["cat", "dog"], False)[0]
    assert warnings_of("ViT-B-16/openai", ["cat", "dog"], False) == []


def test_the_lines_give_the_answer_of_the_page_again(nano_backbone: Backbone, tmp_path: Path) -> None:
    drawing(3, "gaussian-noise").resize((300, 200)).save(tmp_path / "mine.png")
    for asked in (ASKED, FOGGED, replace(ASKED, preset="fast", template="{}")):
        classifier = GRPOTTA(nano_backbone, asked.labels, templates=asked.template, settings=asked.preset)
        episode = make_episode(classifier, read(asked, tmp_path / "mine.png", classifier))
        lines = python_lines(asked, nano_backbone.image_size).replace("'mine.png'", repr(str(tmp_path / "mine.png")))
        found: dict[str, Any] = {"backbone": nano_backbone}
        exec(lines.replace("print(", "answer = (").replace("'nano-clip'", "backbone"), found)
        assert 100 * found["answer"].probability == pytest.approx(episode.percent_after, abs=1e-3)


def test_the_command_is_that_of_predict() -> None:
    assert command(ASKED) == "grpo-tta predict mine.png --labels 'star,red fish' --model nano-clip"
    other = replace(ASKED, file="-x.png", preset="paper", template="a {}.")
    assert command(other).endswith(
        "predict ./-x.png --labels 'star,red fish' --model nano-clip --template 'a {}.' --preset paper"
    )
    assert command(FOGGED) == ""


def test_an_image_that_cannot_be_decoded_is_a_sentence(nano_backbone: Backbone, tmp_path: Path) -> None:
    classifier = GRPOTTA(nano_backbone, LABELS)
    colourful(200, 200).save(tmp_path / "whole.jpg")
    (tmp_path / "mine.png").write_bytes((tmp_path / "whole.jpg").read_bytes()[:1500])
    for asked in (ASKED, FOGGED):
        with pytest.raises(UserError, match=r"^mine.png: truncated or damaged"):
            read(asked, tmp_path / "mine.png", classifier)
    assert render_error("<b>x</b>: no") == '<p class="tta-error" role="alert">&lt;b&gt;x&lt;/b&gt;: no</p>'


def test_a_prior_that_the_gate_left_out_is_said(nano_backbone: Backbone) -> None:
    episode = make_episode(GRPOTTA(nano_backbone, LABELS), drawing(0, "gaussian-noise"))
    assert episode.prior_left_out == (not episode.prior)
    left_out = replace(episode, prior=(), prior_left_out=True)
    assert "nothing was taken off" in render(left_out, ASKED, "cpu", 64)[1]
    kept = replace(episode, prior=(("star", 40.0),), prior_left_out=False)
    assert "nothing was taken off" not in render(kept, ASKED, "cpu", 64)[1]
    for preset in ("fast", "paper"):  # without such views, and without the prior in the answer
        assert not make_episode(GRPOTTA(nano_backbone, LABELS, settings=preset), drawing(0)).prior_left_out


def test_the_gate_is_seen_in_the_explanation(nano_backbone: Backbone) -> None:
    """Colours survive shuffled patches: content-free views favour the answer itself, and the page must not list them alike."""
    labels = nano.TASKS["colours"].classes
    found = [make_episode(GRPOTTA(nano_backbone, labels), drawing(number, "colours")) for number in range(4)]
    assert any(episode.prior_left_out for episode in found)


def test_a_negative_advantage_of_the_best_candidate_is_explained(nano_backbone: Backbone) -> None:
    episode = make_episode(GRPOTTA(nano_backbone, LABELS), drawing(0, "gaussian-noise"))
    rows = (Row("star", -0.1, -0.02, 40, 10, (90.0,), 89.0), Row("heart", -2.0, 0.02, 50, 10, (10.0,), 11.0))
    down = replace(episode, groups=(Group("One group", rows),))
    assert "has a negative advantage" in render(down, ASKED, "cpu", 64)[1]
    up = replace(episode, groups=(Group("One group", (replace(rows[0], advantage=0.02), rows[1])),))
    assert "has a negative advantage" not in render(up, ASKED, "cpu", 64)[1]
    assert "has a negative advantage" not in render(replace(down, towards_target=False), ASKED, "cpu", 64)[1]


def test_all_views_can_be_opened(nano_backbone: Backbone) -> None:
    episode = make_episode(GRPOTTA(nano_backbone, LABELS), drawing(0))
    _, trace = render(episode, ASKED, "cpu", 64)
    assert trace.count('alt="view ') == len(episode.views) > SHOWN_VIEWS
    assert f"{len(episode.views) - SHOWN_VIEWS} more views" in trace


def test_an_answer_to_another_question_is_removed() -> None:
    question = ("a.png", "star, heart", "fog", 4, "nano-clip", "default", "{}")
    assert keep_if_asked(question, "a.png", "star", *question[2:])[0] == EMPTY
    assert keep_if_asked(question, "b.png", *question[1:])[0] == EMPTY
    for kept in (keep_if_asked(question, *question), keep_if_asked(None, *question)):
        assert len(kept) == 4
        assert EMPTY not in kept
    assert keep_table(question, "b.png", *question[1:]) == ("", None)
    assert "" not in keep_table(question, *question)


def test_several_images_are_counted() -> None:
    rows = [Answered("a.png", "star", "heart", 60.0), Answered("<b>.png", "heart", "heart", 70.0), Answered("c", error="c: no")]
    page = render_several(rows, 4, "grpo-tta predict a.png")
    assert "<b>3 of 4</b> images: heart 2. Adaptation changed 1." in page
    assert "&lt;b&gt;.png" in page
    assert '<td colspan="3">c: no</td>' in page


def test_presets_stand_side_by_side() -> None:
    page = render_comparison(("<i>", 50.0), [Compared("fast", "star", 61.25, 7.0, 3.0, 12.4)])
    assert "&lt;i&gt;" in page
    for text in ("fast", "star", "61.2", "7", "12"):
        assert text in page
