"""The suite of streams: orders, conditions by place, names, and images that are the same in every run."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grpo_tta.backbones.imagenet_classes import class_names
from grpo_tta.data.photos import read_photos
from grpo_tta.data.reopen import reopen
from grpo_tta.data.small_corruptions import STRENGTHS, clouds, corrupt_small
from grpo_tta.data.streams import default_tasks, labels_of, names_of_tasks, stream_tasks
from grpo_tta.errors import UserError

PHOTOS = Path(os.environ.get("GRPO_TTA_SHARED", Path(__file__).parents[3] / "shared")) / "data"
needs_photos = pytest.mark.skipif(not (PHOTOS / "cifar10-test.parquet").is_file(), reason="the photographs are not here")


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_orders() -> None:
    assert len(set(labels_of("iid", 400, 24, generator()))) == 24
    assert len(set(labels_of("single", 50, 24, generator()))) == 1
    assert len(set(labels_of("few", 200, 24, generator()))) == 2
    assert len(set(labels_of("few", 50, 5, generator()))) == 1
    runs = labels_of("correlated", 60, 24, generator())
    assert [len(set(runs[i : i + 20])) for i in (0, 20, 40)] == [1, 1, 1]
    assert len(set(runs)) == 3
    counts = [count for _, count in Counter(labels_of("zipf", 6000, 10, generator()).tolist()).most_common()]
    assert counts[0] / counts[1] == pytest.approx(2, abs=0.25)
    assert counts[0] / counts[4] == pytest.approx(5, abs=1)


def test_drawings_are_the_same_however_many_are_asked_for() -> None:
    (short,), (long,) = (stream_tasks(None, ["nano-fog-5-zipf"], limit=n) for n in (4, 12))
    for number in range(4):
        (image, label), (same, other) = short.load(number), long.load(number)
        assert image.tobytes() == same.tobytes()
        assert label == other
    assert short.ordered
    assert short.kind == "stream"
    (tuning,) = stream_tasks(None, ["nano-fog-5-zipf"], split="tuning", limit=4)
    assert tuning.load(0)[0].tobytes() != short.load(0)[0].tobytes()
    again = reopen(short.source, None)
    assert again is not None
    assert again.load(1)[0].tobytes() == short.load(1)[0].tobytes()


def test_another_draw_is_another_stream_of_the_same_kind() -> None:
    first, second, third = stream_tasks(None, [f"nano-fog-5-single{draw}" for draw in ("", "@2", "@30")], limit=8)
    assert [task.name for task in (second, third)] == ["nano-fog-5-single@2", "nano-fog-5-single@30"]
    assert second.image_ids != first.image_ids
    pictures = {task.load(0)[0].tobytes() for task in (first, second, third)}
    assert len(pictures) == 3
    assert len({second.load(number)[1] for number in range(8)}) == 1
    again = reopen(second.source, None)
    assert again is not None
    assert again.load(3)[0].tobytes() == second.load(3)[0].tobytes()


def test_a_recurring_stream_is_noise_fog_clean_noise() -> None:
    (task,) = stream_tasks(None, ["nano-recurring-5"], limit=40)
    assert len(task.image_ids) == 40

    def roughness(number: int) -> float:
        pixels = np.asarray(task.load(number)[0], dtype=float)
        return float(np.abs(np.diff(pixels, axis=0)).mean())

    noise, fog, clean, again = (np.median([roughness(at + i) for i in range(5)]) for at in (0, 10, 20, 30))
    assert min(noise, again) > 2 * clean
    assert clean > fog


def test_a_gradual_stream_rises_and_falls() -> None:
    (task,) = stream_tasks(None, ["nano-gradual-3"], limit=700)
    assert len(task.image_ids) == 700

    def roughness(part: int) -> float:
        pixels = [np.asarray(task.load(100 * part + i)[0], dtype=float) for i in range(9)]
        return float(np.median([np.abs(np.diff(image, axis=0)).mean() for image in pixels]))

    rough = [roughness(part) for part in range(7)]
    assert rough[0] < rough[1] < rough[2] < rough[3] > rough[4] > rough[5] > rough[6]
    (plain,) = stream_tasks(None, ["nano-clean-iid"], limit=1)
    assert plain.load(0)[0].size == task.load(0)[0].size


def test_lengths_and_names() -> None:
    (iid,), (zipf,), (recurring,) = (
        stream_tasks(None, [f"nano-{name}"]) for name in ("clean-iid", "clean-zipf", "recurring-3")
    )
    assert [len(task.image_ids) for task in (iid, zipf, recurring)] == [2000, 500, 500]
    assert len(set(iid.image_ids)) == 2000
    more = stream_tasks(None, ["nano-clean-iid", "nano-clean-zipf"], limit=3000)
    assert [len(task.image_ids) for task in more] == [3000, 3000]
    for world in ("nano", "cifar", "tiny"):
        assert set(default_tasks(world)) <= set(names_of_tasks(world))
    assert [task.name for task in stream_tasks(None, limit=1)] == default_tasks("nano")


@pytest.mark.parametrize(
    ("names", "message"),
    [(["nano-snow-5-iid"], "Unknown stream"), (["cifar-clean-iid"], "need --photos-root"), ([], "No stream was named")],
)
def test_unknown_streams_name_the_remedy(names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        stream_tasks(None, names)


@needs_photos
def test_photographs() -> None:
    names = ["cifar-fog-5-single", "tiny-clean-few", "cifar-recurring-3"]
    single, few, recurring = stream_tasks(PHOTOS, names, limit=40)
    assert len({single.load(number)[1] for number in range(40)}) == 1
    assert len({few.load(number)[1] for number in range(40)}) <= 20
    assert len(few.classes) == 200
    assert len(set(recurring.image_ids)) == 40
    assert single.load(3)[0].tobytes() == stream_tasks(PHOTOS, names[:1], limit=4)[0].load(3)[0].tobytes()
    again = reopen(single.source, PHOTOS)
    assert again is not None
    assert again.load(3)[0].tobytes() == single.load(3)[0].tobytes()
    assert reopen(single.source, None) is None
    with pytest.raises(UserError, match="Unknown stream 'nano-clean-iid'"):
        stream_tasks(PHOTOS, ["nano-clean-iid"])


@needs_photos
def test_the_photographs_of_tiny_under_imagenets_names() -> None:
    (task,) = stream_tasks(PHOTOS, ["imagenet64-clean-iid"], limit=40)
    assert len(task.classes) == len(set(task.classes)) == 198, "a missile and sunglasses are two classes each"
    held = read_photos(PHOTOS, "tiny", "reporting")
    label_of = dict(zip(held.ids, held.labels, strict=True))
    for number in range(0, 40, 8):
        wordnet_id = label_of[Path(task.image_ids[number]).name]
        assert task.classes[task.load(number)[1]] == class_names()[wordnet_id]


@pytest.mark.parametrize("name", STRENGTHS)
def test_small_corruptions_grow_with_their_severity(name: str) -> None:
    smooth = Image.fromarray(np.uint8(generator().integers(60, 200, (8, 8, 3)))).resize((32, 32), Image.Resampling.BICUBIC)
    before = np.asarray(smooth, dtype=float)

    def distance(severity: int) -> float:
        return float(np.abs(np.asarray(corrupt_small(smooth, name, severity, generator()), dtype=float) - before).mean())

    assert distance(5) > 1.2 * distance(1) > 0
    assert corrupt_small(smooth, name, 3, generator()).tobytes() == corrupt_small(smooth, name, 3, generator()).tobytes()
    with pytest.raises(UserError, match="severity from 1 to 5"):
        corrupt_small(smooth, name, 6, generator())


def test_strengths_by_hand() -> None:
    grey = Image.new("RGB", (32, 32), (128, 128, 128))
    noisy = np.asarray(corrupt_small(grey, "gaussian_noise", 5, generator()), dtype=float) / 255
    assert noisy.std() == pytest.approx(0.10, abs=0.01)
    hit = np.asarray(corrupt_small(grey, "impulse_noise", 5, generator()))
    assert np.isin(hit, (0, 255)).mean() == pytest.approx(0.07, abs=0.015)
    two = Image.fromarray(np.uint8(np.repeat([[[0], [200]]], 3, axis=2).repeat(2, axis=0)))
    assert set(np.asarray(corrupt_small(two, "contrast", 2, generator())).ravel()) <= {49, 50, 149, 150}
    field = clouds(32, 2.0, generator())
    assert field.shape == (32, 32)
    assert (field.min(), field.max()) == (0.0, 1.0)
