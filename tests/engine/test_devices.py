"""Right on a GPU before one is seen: whole episodes with tensors that claim to lie there, and on a real one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from grpo_tta.backbones.base import Backbone, load_backbone
from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.baselines.registry import known_methods
from grpo_tta.data.tasks import Task, nano_tasks
from grpo_tta.engine.encode import encode_for, prepare_images
from grpo_tta.engine.interface import Method
from grpo_tta.engine.policy import Policy
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.candidates import TopK
from grpo_tta.method.grpo import grpo_method
from grpo_tta.method.settings import DEFAULT, FAST, PAPER, GRPOSettings
from tests.claimed_device import GPU, Claimed, ClaimedDevice, claim, claim_members

KNOWN = known_methods()
NAMES = ("first", "second")


@pytest.fixture(scope="module")
def task() -> Task:
    return nano_tasks(["fog"], "tuning", 4)[0]


@pytest.fixture(scope="module")
def claimed() -> Backbone:
    backbone = load_backbone("nano-clip")
    claim_members(backbone)
    claim_members(backbone._split)  # type: ignore[attr-defined]
    return backbone


def policy_of(backbone: Backbone, task: Task) -> Policy:
    return Policy(backbone, make_prompts(backbone, task.classes, task.templates, task.ensemble))


def images_of(task: Task, count: int) -> list[Image.Image]:
    """Of two sizes, one of them blurred, so that all ways of making views are gone."""
    made = [task.load(number % 4)[0] for number in range(count)]
    return [image.resize((50, 70)).resize((100, 140)) if number % 2 else image for number, image in enumerate(made)]


def answers(policy: Policy, method: Method, images: Sequence[Image.Image]) -> Tensor:
    names = tuple(f"image {number}" for number in range(len(images)))
    return method(policy, encode_for([method], policy, images, names, ViewSettings(), 0), {})[0].after


@pytest.mark.parametrize("name", KNOWN)
def test_every_method_runs_where_the_model_lies(name: str, claimed: Backbone, task: Task, nano_backbone: Backbone) -> None:
    images = images_of(task, 2)
    expected = answers(policy_of(nano_backbone, task), KNOWN[name], images)
    with ClaimedDevice():
        policy = policy_of(claimed, task)
    with ClaimedDevice() as device:
        found = answers(policy, KNOWN[name], images)
    assert isinstance(found, Claimed)
    torch.testing.assert_close(found.as_subclass(Tensor).exp(), expected.exp(), atol=1e-3, rtol=0)
    # a stream asks once per minibatch whether the images have changed their look; nothing else leaves the device
    alarmed = getattr(KNOWN[name].settings, "alarm", None) is not None
    assert [line.partition(":")[0] for line in device.downloads] == ["grpo_tta/method/online_shift.py"] * alarmed


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", KNOWN)
def test_a_gpu_answers_as_the_cpu(name: str, task: Task, nano_backbone: Backbone) -> None:
    images = images_of(task, 2)
    here, there = (policy_of(backbone, task) for backbone in (nano_backbone, load_backbone("nano-clip", device="cuda")))
    expected, found = (answers(policy, KNOWN[name], images) for policy in (here, there))
    torch.testing.assert_close(found.cpu().exp(), expected.exp(), atol=1e-3, rtol=0)


WAITS = {
    "engine/encode.py": 1,  # are the features finite?
    "method/grpo.py": 2,  # are rewards and advantages?
}


def noted(settings: GRPOSettings, claimed: Backbone, task: Task, count: int) -> tuple[Counter[str], Counter[str]]:
    """Waits and uploads by module in one batch of that many images."""
    images = images_of(task, count)
    with ClaimedDevice():
        policy = policy_of(claimed, task)
    with ClaimedDevice() as device:
        answers(policy, grpo_method(settings), images)
    return tuple(
        Counter(place.partition(":")[0].removeprefix("grpo_tta/") for place in of) for of in (device.waits, device.uploads)
    )  # type: ignore[return-value]


@pytest.mark.parametrize("settings", [DEFAULT, replace(PAPER, views=replace(PAPER.views, views=16))], ids=["default", "paper"])
def test_the_host_waits_a_fixed_number_of_times(settings: GRPOSettings, claimed: Backbone, task: Task) -> None:
    """Whatever the number of images, views, candidates and steps; nor does it upload more often."""
    waits, uploads = noted(settings, claimed, task, 2)
    assert waits == WAITS
    few = replace(settings.views, views=7, content_free=2)
    others = [
        (settings, 4),
        (replace(settings, views=few), 2),
        (replace(settings, group=TopK(3)), 2),
        (replace(settings, steps=replace(settings.steps, count=3)), 2),
    ]
    for other, count in others:
        assert noted(other, claimed, task, count) == (waits, uploads)


def test_fast_waits_once_more_for_every_round(claimed: Backbone, task: Task) -> None:
    waits, _ = noted(FAST, claimed, task, 2)
    rounds = waits["engine/encode.py"] - 1
    assert rounds % 2 == 0  # which images go on, and are their features finite?
    assert waits == WAITS | {"engine/encode.py": 1 + rounds, "method/grpo.py": 3}  # and how many views any image has read
    more, _ = noted(FAST, claimed, task, 4)
    assert more["engine/encode.py"] <= 1 + 2 * 4  # five rounds at the most, whatever the number of images


def test_views_made_together_are_those_made_one_by_one(claimed: Backbone, task: Task, nano_backbone: Backbone) -> None:
    images = images_of(task, 3)
    names = ("a", "b", "c")
    here = prepare_images(nano_backbone, images, names, ViewSettings(), 0)
    with ClaimedDevice():
        there = prepare_images(claimed, images, names, ViewSettings(), 0)
        views, some, free = there.views(range(24)), there.views(range(5, 14), [0, 2]), there.content_free()
        turned = there.views(range(3), [2, 0, 1])
    for found, expected in (
        (views, here.views(range(24))),
        (free, here.content_free()),
        (some, here.views(range(5, 14), [0, 2])),
        (turned, here.views(range(3), [2, 0, 1])),
    ):
        assert isinstance(found, Claimed)
        torch.testing.assert_close(found.as_subclass(Tensor), expected, atol=1e-4, rtol=0)


# the claim itself


def test_the_claim_refuses_what_a_gpu_would() -> None:
    here, there = torch.ones(3), claim(torch.ones(3))
    with ClaimedDevice() as device:
        assert there.device == GPU
        assert here.device.type == "cpu"
        assert isinstance(there * 2 + torch.tensor(1.0), Claimed)  # numbers without axes go along
        for mixed in (lambda: here + there, lambda: torch.cat([here, there]), lambda: torch.where(there > 0, here, 0.0)):
            with pytest.raises(AssertionError, match="on the CPU"):
                mixed()
        with pytest.raises(AssertionError, match="numpy"):
            there.numpy()
        assert device.waits == device.uploads == device.downloads == []
        assert isinstance(torch.zeros(2, device=there.device), Claimed)
        assert isinstance(here.to(there), Claimed)
        assert not isinstance(there.cpu(), Claimed)
        assert bool((there > 0).all())
        assert there[there > 0].tolist() == [1.0, 1.0, 1.0]
    assert [len(of) for of in (device.waits, device.uploads, device.downloads)] == [3, 1, 1]
    assert np.asarray(here).tolist() == [1.0, 1.0, 1.0]
