"""Memory: of a run over many images, and over many classes. Counted in bytes of tensors, not taken from the process."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grpo_tta import GRPOTTA
from grpo_tta.backbones.base import Backbone
from grpo_tta.baselines.registry import choose_methods
from grpo_tta.bench.runner import run
from grpo_tta.bench.runs import RunSettings
from grpo_tta.data import nano
from grpo_tta.data.tasks import nano_tasks
from grpo_tta.images import inputs
from grpo_tta.images.read import DecodedImage, load_decoded
from grpo_tta.method.settings import DEFAULT

B = 2
WORDS = ("red", "blue", "star", "heart", "circle", "square", "striped", "dotted", "small", "large")


@final
class TensorMemory(TorchDispatchMode):
    """Inside, the bytes of all storages made and not yet freed; `peak` is their largest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self._known and key not in inputs:
                    self._known.add(key)
                    self.now += size
                    weakref.finalize(storage, self._freed, key, size)
        self.peak = max(self.peak, self.now)
        return out


def test_the_measure_itself() -> None:
    with TensorMemory() as memory:
        a = torch.zeros(1000)
        b = a.view(10, 100)
        assert memory.now == 4000
        c = b + 1
        assert memory.now == 8000
        del a, b, c
        assert memory.now == 0
    assert memory.peak == 8000


def labels(C: int) -> list[str]:
    return [" ".join(WORDS[number // 10**place % 10] for place in range(4)) + f" {number}" for number in range(C)]


def test_classes_cost_their_text_features_and_a_few_tensors_of_views_by_classes(nano_backbone: Backbone) -> None:
    images = [Image.fromarray(item.image) for item in nano.items("fog", "tuning", B)]
    made, used = {}, {}
    for C in (10, 1_000, 10_000):
        with TensorMemory() as memory:
            classifier = GRPOTTA(nano_backbone, labels(C))
        made[C] = memory.peak
        with TensorMemory() as memory:
            answers = classifier.predict(images)
        used[C] = memory.peak
        assert all(len(answer.probabilities) == C for answer in answers)
    C = 10_000
    text_features = 4 * C * classifier.policy.text_features.shape[1]
    views_by_classes = 4 * B * (DEFAULT.views.views + DEFAULT.views.content_free) * C
    assert made[C] - made[1_000] <= 2 * text_features  # encoded chunk by chunk; the features and their normalised copy
    assert used[C] - used[10] <= 5 * views_by_classes


@pytest.mark.parametrize(("workers", "batches"), [(0, 1), (2, 2)])
def test_images_are_held_a_batch_at_a_time(
    workers: int, batches: int, nano_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for number, item in enumerate(nano.items("fog", "tuning", 12)):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(item.image).save(paths[-1])
    read: list[weakref.ref[Image.Image]] = []
    most = 0

    def watched(path: Path, least_side: int | None) -> DecodedImage:
        nonlocal most
        decoded = load_decoded(path, least_side)
        read.append(weakref.ref(decoded.image))
        most = max(most, sum(reference() is not None for reference in read))
        return decoded

    monkeypatch.setattr(inputs, "load_decoded", watched)
    classifier = GRPOTTA(nano_backbone, WORDS, batch=3, workers=workers)
    peaks = []
    for n in (6, 12):
        with TensorMemory() as memory:
            assert len(classifier.predict(paths[:n])) == n
        peaks.append(memory.peak)
    assert most <= 3 * batches + 1  # and the last of the one before while its last reference goes
    assert peaks[1] <= 1.05 * peaks[0]


def test_a_run_over_more_images_takes_no_more_memory(nano_backbone: Backbone, tmp_path: Path) -> None:
    methods = choose_methods(["zero-shot", "grpo-tta"])
    peaks = []
    for n in (4, 12):
        with TensorMemory() as memory:
            run(nano_backbone, nano_tasks(["fog"], "tuning", n), methods, tmp_path / str(n), RunSettings(batch=2, chunk=4))
        peaks.append(memory.peak)
    assert peaks[1] <= 1.05 * peaks[0]
