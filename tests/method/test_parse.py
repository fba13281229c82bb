"""Settings from text and back."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from grpo_tta.config.serialise import short_hash, to_plain
from grpo_tta.engine.early_exit import Rounds
from grpo_tta.engine.optim import SGD, Adam
from grpo_tta.engine.parameters import LowRank, NormAffine
from grpo_tta.errors import UserError
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.candidates import Nucleus, Sample, TopK
from grpo_tta.method.from_file import FromFile
from grpo_tta.method.objective import Centred, Target, ZScore
from grpo_tta.method.parse import change_settings, from_plain, parse_value, settable, show
from grpo_tta.method.prediction import Ensemble, StreamEnsemble, View0
from grpo_tta.method.rewards import Alignment, ContentFree, Semantic, StreamPrior, Sum
from grpo_tta.method.settings import ALONG_A_STREAM, DEFAULT, PRESETS, GRPOSettings, Steps
from grpo_tta.method.weighting import ByEntropy, MostConfident

share, size, rate = st.floats(0.01, 1.0), st.integers(1, 24), st.floats(1e-6, 10.0)
per = st.sampled_from(["image", "view"])
weight = st.floats(0.01, 9.0)
rewards = st.lists(
    st.tuples(
        weight,
        st.one_of(
            st.builds(Alignment, per), st.builds(ContentFree, st.booleans()), st.just(Semantic()), st.just(StreamPrior())
        ),
    ),
    min_size=1,
    max_size=3,
).map(lambda terms: Sum(tuple(terms)))
optimizers = st.one_of(st.builds(SGD, rate, st.none() | rate), st.builds(Adam, rate, st.none() | rate, share))
anything = st.builds(
    GRPOSettings,
    views=st.builds(ViewSettings, st.just(24), st.integers(1, 8), st.tuples(st.just(0.25), share.filter(lambda x: x >= 0.25))),
    weighting=st.one_of(st.builds(ByEntropy, share), st.builds(MostConfident, size)),
    group=st.one_of(st.builds(TopK, size, per), st.builds(Sample, size, per), st.builds(Nucleus, share, size, per)),
    reward=rewards,
    advantage=st.one_of(st.builds(Target, rate), st.just(ZScore()), st.just(Centred())),
    tune=st.one_of(st.builds(NormAffine, st.none() | size), st.builds(LowRank, size, st.none() | size)),
    steps=st.builds(Steps, st.integers(0, 9), optimizers, rate, share, st.none() | rate),
    predict=st.one_of(st.builds(Ensemble, share), st.just(View0()), st.builds(StreamEnsemble, share)),
)


@example(GRPOSettings(reward=Sum(((1.0, Alignment()),)), predict=View0()))
@given(anything)
def test_what_is_written_down_is_read_again(settings: GRPOSettings) -> None:
    assert from_plain(json.loads(json.dumps(to_plain(settings)))) == settings
    for name, value in settable(settings).items():
        assert parse_value(settings, name, show(value)) == value, name


@given(anything, anything)
def test_other_settings_have_another_hash(one: GRPOSettings, other: GRPOSettings) -> None:
    assert (short_hash(one) == short_hash(other)) == (one == other)


def test_parts_of_equal_numbers_are_told_apart() -> None:
    assert short_hash(TopK(5)) != short_hash(Sample(5))
    assert to_plain(TopK(5)) == {"type": "TopK", "size": 5, "per": "image"}


@pytest.mark.parametrize("preset", [*PRESETS.values(), ALONG_A_STREAM])
def test_presets_survive_the_round_trip(preset: GRPOSettings) -> None:
    assert from_plain(to_plain(preset)) == preset


def test_assignments_change_what_they_name() -> None:
    assignments = (
        "group=Nucleus(mass=0.8)",
        "group.per=view",
        "steps.count=3",
        "steps.optimizer=Adam(0.01)",
        "views.crop_scale=(0.4, 1)",
        "reward=Alignment() + 0.1 * ContentFree(gated=false)",
        "predict.prior=0",
        "tune.last_blocks=none",
    )
    changed = change_settings(DEFAULT, assignments)
    assert changed.group == Nucleus(mass=0.8, per="view")
    assert changed.steps == Steps(3, Adam(0.01))
    assert changed.views == ViewSettings(crop_scale=(0.4, 1.0))
    assert changed.reward == Alignment() + 0.1 * ContentFree(gated=False)
    assert (changed.predict, changed.tune, changed.advantage) == (Ensemble(0.0), NormAffine(None), Target())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("group", "write NAME=VALUE"),
        ("group=", "write NAME=VALUE"),
        ("size=3", r"did you mean group.size\?"),
        ("nothing=3", "is no setting that can be changed; choose from views"),
        ("group=Target()", "choose TopK, Sample, Nucleus or FILE.py:NAME"),
        ("group=3", "choose TopK, Sample, Nucleus"),
        ("group=TopK(size='a')", "write a whole number"),
        ("group=TopK(size=true)", "write a whole number"),
        ("group=TopK(3, per=batch)", "choose image, view"),
        ("group=TopK(foo=1)", "it takes size, per"),
        ("group=TopK(3", "cannot be read"),
        ("group=(lambda: 3)()", "cannot stand in a setting"),
        ("group=__import__('os').system('true')", "cannot stand in a setting"),
        ("group=__import__('os')", "Unknown part '__import__'"),
        ("group=TopK(size=3 if 1 else 4)", "cannot stand in a setting"),
        ("reward=Alignment() + 3", "cannot be joined so"),
        ("reward=3 + 3", "rewards add up"),
        ("reward=0 * Alignment()", "All reward weights are zero"),
        ("reward=missing.py:mine", "cannot be read"),
        ("steps.count=1.5", "write a whole number"),
        ("steps.max_kl=-1", "max_kl must be positive"),
        ("views.crop_scale=0.5", "write 2 values"),
        ("early_exit=3", "choose Rounds"),
        ("views.content_free=0", "needs content-free views"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        change_settings(DEFAULT, [text])


OWN = """
import torch

def first(reference, group):
    return -group.classes.float()

def greedy(reference, group):
    return first(reference, group)

greedy.needs = {"content_free"}
number = 3
"""


def test_a_function_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    changed = change_settings(DEFAULT, [f"reward={file}:first"])
    assert isinstance(changed.reward, FromFile)
    assert to_plain(changed.reward) == {"function": f"{file}:first", "source": to_plain(changed.reward)["source"]}
    assert show(changed.reward) == f"{file}:first"
    assert change_settings(DEFAULT, [f"reward={file}:greedy"]).needs == {"content_free"}

    file.write_text(OWN + "# another\n")
    assert short_hash(change_settings(DEFAULT, [f"reward={file}:first"])) != short_hash(changed)
    file.unlink()  # it travels with its text
    again = pickle.loads(pickle.dumps(changed.reward))
    assert again == changed.reward
    assert callable(again.function())


def test_a_file_without_the_function_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    for name in ("second", "number"):
        with pytest.raises(UserError, match=f"no function '{name}' in it"):
            change_settings(DEFAULT, [f"reward={file}:{name}"])
    file.write_text("1 / 0")
    with pytest.raises(UserError, match=r"does not run \(ZeroDivisionError"):
        change_settings(DEFAULT, [f"reward={file}:first"])


def test_functions_are_written_by_name_and_source() -> None:
    def mine(reference: object, group: object) -> torch.Tensor:
        return torch.zeros(1)

    def weighted(by: float):  # type: ignore[no-untyped-def]
        def reward(reference: object, group: object) -> float:
            return by

        return reward

    described = to_plain(mine)
    assert described["function"].endswith(":test_functions_are_written_by_name_and_source.<locals>.mine")
    assert short_hash(weighted(1.0)) != short_hash(weighted(2.0))
    with pytest.raises(UserError, match="import it and set it again"):
        from_plain(described)
    with pytest.raises(UserError, match="make it a function, or a frozen dataclass"):
        to_plain(object())
    with pytest.raises(UserError, match="written by another version"):
        from_plain({"type": "Rank"})


def test_rounds_can_be_named() -> None:
    assert change_settings(DEFAULT, ["early_exit=Rounds(share=0.2)"]).early_exit == Rounds(share=0.2)
