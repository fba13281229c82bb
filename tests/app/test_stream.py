"""Several images on the page without a browser: each by itself, and along a stream."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from grpo_tta import GRPOTTA, UserError
from grpo_tta.app.draw import render_stream
from grpo_tta.app.knowledge import warnings_of_many
from grpo_tta.app.page import keep_table
from grpo_tta.app.reproduce import Asked, command_of_many
from grpo_tta.app.several import answer_each, check_images, in_order
from grpo_tta.app.stream import SETTINGS, Streamed, follow, stand_after, watch
from grpo_tta.app.uploads import decode_upload, load_upload
from grpo_tta.backbones.base import Backbone
from grpo_tta.classifier import Prediction
from tests.app.test_page import colourful
from tests.service.conftest import LABELS, drawing


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """More drawings than a minibatch holds; one of them is none."""
    paths = [tmp_path / f"{i:02d}.png" for i in range(SETTINGS.update_size + 2)]
    for i, path in enumerate(paths):
        drawing(i).save(path)
    paths[3].write_text("no image")
    return paths


def test_a_stream_gives_the_answers_of_the_library_minibatch_by_minibatch(nano_backbone: Backbone, paths: list[Path]) -> None:
    classifier = GRPOTTA(nano_backbone, LABELS)
    minibatches = list(follow(classifier, paths))
    assert [len(some) for some in minibatches] == [SETTINGS.update_size, 2]
    rows = [row for some in minibatches for row in some]
    for path, row, answer in zip(paths, rows, classifier.stream(paths, errors="return"), strict=True):
        assert row.file == path.name
        if isinstance(answer, Prediction):
            assert (row.before, row.after, row.error) == (answer.label_before, answer.label, "")
            assert row.percent == pytest.approx(100 * answer.probability, abs=1e-3)
            assert row.views == SETTINGS.grpo.views.views
        else:
            assert row.error == "03.png: not an image in a known format; remove it or convert it to PNG or JPEG."
    assert [row for row in rows if row.kl > 1e-8]  # the parameters have moved
    again = next(follow(classifier, paths))
    assert [row.after for row in again] == [row.after for row in minibatches[0]]  # each begins anew


def test_the_kl_is_that_of_the_moved_model(nano_backbone: Backbone, paths: list[Path]) -> None:
    classifier = GRPOTTA(nano_backbone, LABELS)
    side = SETTINGS.grpo.views.least_side(nano_backbone.image_size)
    images = [decode_upload(path, side) for path in paths[:3]]
    with torch.no_grad():
        start = SETTINGS.grpo.tune(nano_backbone).start(1)
    count = {"optimizer.count": torch.tensor(0)}
    still = watch(classifier, images, {f"params.{name}": value for name, value in start.items()} | count)
    assert [kl for kl, _ in still] == pytest.approx([0, 0, 0], abs=1e-6)
    assert [len(named) for _, named in still] == [SETTINGS.grpo.views.views] * 3
    assert {label for _, named in still for label in named} <= set(LABELS)
    moved = watch(classifier, images, {f"params.{name}": value + 0.05 for name, value in start.items()} | count)
    assert min(kl for kl, _ in moved) > 1e-4
    assert watch(classifier, [], {}) == []


def test_a_minibatch_without_a_readable_image_leaves_the_stream_as_it_is(nano_backbone: Backbone, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("no image")
    (rows,) = follow(GRPOTTA(nano_backbone, LABELS), [tmp_path / "a.png", tmp_path / "b.png"])
    assert all(row.error for row in rows)
    assert stand_after([rows]).answered == 0
    assert '<td class="tta-right">–</td>' in render_stream([rows], 2, "")


def rows(*answers: tuple[str, str, float, int]) -> list[Streamed]:
    return [Streamed("x.png", before, after, 50.0, kl, others, 4) for before, after, kl, others in answers]


def test_where_a_stream_stands() -> None:
    first = rows(("a", "a", 0.5, 4), ("b", "a", 0.1, 0))
    second = [*rows(("b", "b", 0.2, 1), ("b", "a", 0.4, 2)), Streamed("c.png", error="c.png: no")]
    one, two = stand_after([first]), stand_after([first, second])
    assert (one.images, one.mix, one.mix_before) == (2, (("a", 100.0),), (("a", 50.0), ("b", 50.0)))
    assert (one.kl, one.others, one.answered) == (pytest.approx(0.3), 50.0, 2)
    assert (two.images, two.mix, two.mix_before) == (5, (("a", 75.0), ("b", 25.0)), (("b", 75.0), ("a", 25.0)))
    assert (two.kl, two.others, two.answered) == (pytest.approx(0.3), 37.5, 2)


def test_a_stream_is_drawn_with_everything_escaped() -> None:
    some = [*rows(("a", "<b>", 0.25, 1), ("a", "a", 0.75, 3)), Streamed("<i>.png", error="<i>.png: no")]
    page = render_stream([some], 4, "grpo-tta predict x.png", ["<u>careful"])
    for text in ("<b>3 of 4</b> images", "&lt;b&gt; 50\u00a0%", "0.50000", "1 of 4", "&lt;i&gt;.png: no", "&lt;u&gt;careful"):
        assert text in page
    assert "no labels" in page
    assert "grpo-tta predict" not in page  # before the end the command would give other answers
    assert "grpo-tta predict" in render_stream([some], 3, "grpo-tta predict x.png")


def test_each_by_itself(nano_backbone: Backbone, paths: list[Path]) -> None:
    colourful(200, 200).save(paths[1])
    classifier = GRPOTTA(nano_backbone, LABELS)
    *_, rows = answer_each(classifier, paths[:5])
    for path, row in zip(paths, rows, strict=False):
        if row.error:
            assert row.error.startswith("03.png: not an image")
        else:
            assert row.after == classifier.predict(path).label
    assert [row.photograph for row in rows] == [None, True, None, None, None]


@pytest.mark.parametrize(("count", "sentence"), [(0, "There are no images yet"), (101, "101 images are more than the page")])
def test_as_many_images_as_the_page_takes(count: int, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_images([Path("a.png")] * count)
    check_images([Path("a.png")] * 100)


def test_messages_name_an_upload_without_the_folder_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    for read in (load_upload, lambda path: decode_upload(path, 64)):
        with pytest.raises(UserError, match=r"^empty.png: the file is empty; copy it again.$"):
            read(tmp_path / "empty.png")


def test_what_a_model_does_not_know_of_many_images_is_said() -> None:
    assert warnings_of_many("nano-clip", ["star"], [False, False]) == []
    seen, labels = warnings_of_many("nano-clip", ["star", "my cat"], [True, False, True])
    assert seen.startswith("2 of 3 images look like photographs.")
    assert "my cat" in labels
    assert warnings_of_many("photo-clip", ["cat"], [True, True]) == []
    assert warnings_of_many("photo-clip", ["cat"], [True, False])[0].startswith("1 of 2 images do not look like photographs.")
    assert warnings_of_many("photo-clip", ["cat"], [True, None]) == warnings_of_many("photo-clip", ["cat"], []) == []


def test_images_are_taken_as_listed_or_as_a_folder_is() -> None:
    paths = [Path("x/b.png"), Path("y/a.png"), Path("w/10.png"), Path("z/2.png")]
    assert in_order(paths, "as listed") == paths
    assert [path.name for path in in_order(paths, "by name")] == ["10.png", "2.png", "a.png", "b.png"]


def test_the_command_of_many() -> None:
    asked = Asked("", ["star", "red fish"], "none", 1, "nano-clip", "paper", "a {}.")
    one = "grpo-tta predict a.png ./-b.png --labels 'star,red fish' --model nano-clip --template 'a {}.'"
    assert command_of_many(["a.png", "-b.png"], asked) == f"{one} --preset paper"
    assert command_of_many(["a.png", "-b.png"], asked, stream=True) == f"{one} --online"


def test_answers_to_many_images_go_with_their_question() -> None:
    question = ("star, heart", "nano-clip", "default", "{}")
    assert keep_table(question, "star", *question[1:]) == ("", None)
    kept: Sequence[object] = keep_table(question, *question)
    assert len(kept) == 2
    assert kept != ("", None)
