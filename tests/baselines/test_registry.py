"""Every baseline keeps the contract, with the settings of its official code and with tuned ones."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path

import pytest

from grpo_tta.baselines.registry import choose_methods, known_methods, official_methods, our_methods, tuned_methods
from grpo_tta.errors import UserError

BASELINES = [*official_methods(), *tuned_methods()]
EVERY = list(known_methods().values())


def test_every_method_is_known_by_its_own_name():
    assert [method.name for method in EVERY] == list(known_methods())
    assert {m.name for m in (*our_methods(), *BASELINES)} | {"zero-shot", "view-mean"} == set(known_methods())
    assert len({m.name for m in EVERY}) == len(EVERY)
    assert choose_methods(["all"]) != []
    assert [m.name for m in choose_methods(["zero", "tda", "zero"])] == ["zero", "tda"]
    with pytest.raises(UserError, match="Unknown method 'best'; choose from zero-shot, view-mean"):
        choose_methods(["zero", "best"])


def test_tuned_forms_are_of_known_baselines_and_other_settings():
    official = {method.name: method for method in official_methods()}
    for method in tuned_methods():
        baseline = official[method.name.removesuffix("-tuned")]
        assert type(method.settings) is type(baseline.settings)
        assert method.settings != baseline.settings
        assert (method.protocol, method.reward) == (baseline.protocol, baseline.reward)


@pytest.mark.parametrize("method", BASELINES, ids=lambda method: method.name)
def test_contract(policy, check_method, method):
    check_method(policy, method)


def parts_of(settings):
    """The settings and every dataclass inside of them."""
    yield settings
    for field in fields(settings):
        if is_dataclass(inner := getattr(settings, field.name)):
            yield from parts_of(inner)


@pytest.mark.parametrize("method", [m for m in EVERY if m.settings is not None], ids=lambda method: method.name)
def test_settings_are_frozen_and_documented(method):
    for part in parts_of(method.settings):
        for field in fields(part):
            with pytest.raises(FrozenInstanceError):
                setattr(part, field.name, None)
            described = re.search(rf"^ +(?:\w+, )*{field.name}(?:, \w+)*: \S.*", type(part).__doc__, re.MULTILINE)
            assert described, f"{type(part).__name__} says nothing of {field.name}"
    if method.protocol != "episodic" and not hasattr(method.settings, "grpo"):
        assert method.settings.update_size >= 1


def test_the_page_of_baselines_names_them_all_under_their_protocol():
    page = (Path(__file__).parents[2] / "docs" / "baselines.md").read_text()
    episodic, batch, online = re.split(r"^## ", page, flags=re.MULTILINE)[1:4]
    for method in official_methods():
        name = method.name.removesuffix("-full")  # two forms of one baseline share a row
        assert f"`{name}`" in {"episodic": episodic, "batch": batch, "online": online}[method.protocol], method.name


def test_declared_protocols_and_rewards():
    found = {method.name: (method.protocol, method.reward) for method in official_methods()}
    assert {name for name, (protocol, _) in found.items() if protocol == "online"} == {
        *("tent", "sar", "batclip", "batclip-visual", "mint", "cliptta", "tda", "boostadapter", "dota", "dota-pooled")
    }
    assert {name for name, (protocol, _) in found.items() if protocol == "batch"} == {"clipartt", "watt"}
    assert {name for name, (_, reward) in found.items() if reward == "own"} == {"rlcf", "rlcf-full"}


def test_costs(policy, images):
    """Passes of one image, by hand: V views, three steps on six of them and the prediction, or the share of the blocks."""
    expected = {
        "template-ensemble": (1, 0),
        "vte": (64, 0),
        "zero": (64, 0),
        "mta": (64, 0),
        "tpt": (64, 0),
        "encoder-entropy": (64 + 18 + 1, 18),
        "encoder-entropy-full": (64 + 18 + 1, 18),
        "rlcf": (64 + 18 + 1, 18),
        "rlcf-full": (64 + 18 + 1, 18),
        "ttl": (64 + 64 + 1, 64),  # the backbone has three blocks, all of them tuned
        "sts": (64, 0),
        "sts-ensemble": (64, 0),
        "fga-test-stage": (64, 0),
        "ctpt": (64, 0),
        # two of three blocks are tuned; six views, of ten tokens each, and six masked ones of three tokens
        "lora-ttt": (pytest.approx(64 + 1.8 / 3 + 2 / 3 * (6 + 1.8 + 1)), pytest.approx(2 / 3 * (6 + 1.8))),
        "tent": (1, 1),
        "sar": (2, 2),
        "batclip": (1, 1),
        "batclip-visual": (1, 1),
        "mint": (2, 1),
        "cliptta": (10 * 2 + 1, 10 * 2),  # the memory holds the image itself
        "clipartt": (11, 10),
        "watt": (5 * 3 * 2 + 1, 5 * 3 * 2),  # three templates
        "tda": (1, 0),
        "boostadapter": (64, 0),
        "dota": (1, 0),
        "dota-pooled": (1, 0),
    }
    for name, passes in expected.items():
        method = known_methods()[name]
        assert method(policy, images(policy, method, ["p"]), {})[0].cost.of(0) == passes, name
