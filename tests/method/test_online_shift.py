"""A change of the images' look: the statistics by hand, when the alarm is raised, and what a stream forgets then."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from grpo_tta.engine.encode import encode_views
from grpo_tta.engine.interface import ImageBatch
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.online import stream_method
from grpo_tta.method.online_settings import StreamSettings
from grpo_tta.method.online_shift import ShiftAlarm, moved, statistics, watched_of
from grpo_tta.method.settings import ALONG_A_STREAM


def test_the_statistics_by_hand() -> None:
    # one bright pixel in the middle of 5 x 5: of the nine places of the Laplacian it is 4 at one and -1 at four
    views = torch.zeros(1, 3, 5, 5)
    views[0, :, 2, 2] = 3.0
    detail, spread = statistics(views)[0].tolist()
    assert detail == pytest.approx(torch.tensor(3 * (4 + 4) / 9).log().item())
    # the variance of 24 zeros and a 3 with 24 degrees of freedom is 9 (1 - 1 / 25) / 24 = 0.36
    assert spread == pytest.approx(torch.tensor(0.6).log().item())
    assert statistics(torch.zeros(1, 3, 5, 5)).isfinite().all(), "a plain image has no detail"


def test_standard_errors_by_hand() -> None:
    # before: 4 values of mean 1 and variance 1; recent: 4 of mean 3 and variance 4 / 3: 2 / sqrt(1 / 4 + (4 / 3) / 4)
    recent = torch.tensor([[2.0], [4.0], [2.0], [4.0]], dtype=torch.float64)
    errors = moved(recent, torch.tensor([4.0]), torch.tensor([8.0]), 4.0)
    assert float(errors) == pytest.approx(2 / (1 / 4 + 1 / 3) ** 0.5)


def pictures(n: int, noise: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.linspace(-1, 1, 16)[None, None, :, None] * torch.rand(n, 1, 1, 1, generator=generator)
    return (smooth + noise * torch.randn(n, 3, 16, 16, generator=generator)).expand(n, 3, 16, 16)


def watch(alarm: ShiftAlarm, minibatches: list[Tensor]) -> list[bool]:
    watched, raised = watched_of({}), []
    for views in minibatches:
        changed, watched = alarm(views, watched_of(watched.state()))
        raised.append(changed)
    return raised


def test_noise_that_sets_in_is_noticed_once() -> None:
    calm, noisy = [pictures(8, 0.1, seed) for seed in range(8)], [pictures(8, 0.5, seed) for seed in range(8)]
    raised = watch(ShiftAlarm(window=16), [*calm, *noisy])
    assert raised[:8] == [False] * 8
    assert sum(raised[8:11]) == 1
    assert not any(raised[11:])


def test_there_is_no_alarm_before_two_windows() -> None:
    """Eight calm images are too few to compare with, however noisy the sixteen after them are."""
    noisy = [pictures(8, 0.5, seed) for seed in range(2)]
    assert not any(watch(ShiftAlarm(window=16), [pictures(8, 0.1, 0), *noisy]))
    assert any(watch(ShiftAlarm(window=16), [pictures(8, 0.1, 0), pictures(8, 0.1, 1), *noisy]))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_a_steady_stream_raises_none(seed: int) -> None:
    assert not any(watch(ShiftAlarm(window=16), [pictures(8, 0.3, seed * 100 + number) for number in range(12)]))


def test_sums_are_those_of_what_has_left_the_window() -> None:
    alarm, watched = ShiftAlarm(window=8), watched_of({})
    minibatches = [pictures(5, 0.3, seed) for seed in range(4)]
    for views in minibatches:
        _, watched = alarm(views, watched)
    every = torch.cat([statistics(views) for views in minibatches]).double()
    torch.testing.assert_close(watched.recent, every[-8:])
    torch.testing.assert_close(watched.sums, every[:-8].sum(0))
    torch.testing.assert_close(watched.squares, every[:-8].square().sum(0))
    assert (watched.count, watched.restarts) == (12, 0)


def batch_of(policy: Policy, noise: float, numbers: range) -> ImageBatch:
    generator = torch.Generator().manual_seed(numbers.start)
    views = noise * torch.randn(len(numbers), 4, 3, 32, 32, generator=generator)
    encoded = encode_views(policy, views, views[:, :0])
    return ImageBatch(tuple(f"x{number}" for number in numbers), views, views[:, :0], encoded, 0)


def test_a_stream_forgets_what_it_learnt(policy: Policy) -> None:
    """From the alarm on the answers are those of a stream that began there."""
    grpo = replace(ALONG_A_STREAM, views=ViewSettings(views=4, content_free=0))
    method = stream_method(StreamSettings(grpo, update_size=4, alarm=ShiftAlarm(window=4), gate=None), "x")
    batches = [batch_of(policy, 0.2, range(n, n + 4)) for n in range(0, 16, 4)] + [batch_of(policy, 2.0, range(16, 20))]
    state: dict[str, Tensor] = {}
    for batch in batches:
        adaptation, state = method(policy, batch, state)
    assert int(state["shift.restarts"]) == 1
    assert float(state["prior.count"]) == 4
    assert save(state), "safetensors takes no tensors that share memory"
    alone, fresh = method(policy, batches[-1], {})
    torch.testing.assert_close(adaptation.after, alone.after)
    assert all(torch.equal(state[key], fresh[key]) for key in fresh if key != "shift.restarts")

    stubborn = stream_method(replace(method.settings, alarm=None), "x")
    state = {}
    for batch in batches:
        adaptation, state = stubborn(policy, batch, state)
    assert float(state["prior.count"]) == 20
    assert (adaptation.after - alone.after).abs().max() > 1e-3


@pytest.mark.parametrize(("changes", "message"), [({"errors": 0}, "errors"), ({"window": 1}, "window")])
def test_bad_settings_name_the_remedy(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ShiftAlarm(**changes)
