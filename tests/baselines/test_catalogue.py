"""Every baseline keeps the contract, with the settings of its official code and with tuned ones."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import pytest

from grpo_tta.baselines.catalogue import baseline_methods
from grpo_tta.baselines.tuned import tuned_baseline_methods

NAMES = [
    *("template-ensemble", "vte", "zero", "mta", "tpt"),
    *("encoder-entropy", "encoder-entropy-full", "rlcf", "rlcf-full", "ttl"),
    *("tent", "clipartt", "watt", "tda", "boostadapter"),
]


def test_names():
    assert [method.name for method in baseline_methods()] == NAMES


def test_tuned_forms_are_of_known_baselines_and_other_settings():
    official = {method.name: method for method in baseline_methods()}
    for method in tuned_baseline_methods():
        baseline = official[method.name.removesuffix("-tuned")]
        assert type(method.settings) is type(baseline.settings)
        assert method.settings != baseline.settings
        assert (method.protocol, method.reward) == (baseline.protocol, baseline.reward)


@pytest.mark.parametrize("method", [*baseline_methods(), *tuned_baseline_methods()], ids=lambda method: method.name)
def test_contract(policy, check_method, method):
    check_method(policy, method)


@pytest.mark.parametrize("method", baseline_methods(), ids=lambda method: method.name)
def test_settings_are_frozen_and_documented(method):
    if method.settings is None:
        return
    assert is_dataclass(method.settings)
    assert method.settings.__dataclass_params__.frozen
    for field in fields(method.settings):
        assert field.name in type(method.settings).__doc__
    if method.protocol != "episodic":
        assert method.settings.update_size >= 1


def test_declared_protocols_and_rewards():
    found = {method.name: (method.protocol, method.reward) for method in baseline_methods()}
    assert {name for name, (protocol, _) in found.items() if protocol == "online"} == {"tent", "tda", "boostadapter"}
    assert {name for name, (protocol, _) in found.items() if protocol == "batch"} == {"clipartt", "watt"}
    assert {name for name, (_, reward) in found.items() if reward == "own"} == {"rlcf", "rlcf-full"}


def test_costs(policy, images):
    """Passes of one image, by hand: V views, three steps on six of them and a last look, or the share of the blocks."""
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
        "tent": (1, 1),
        "clipartt": (11, 10),
        "watt": (5 * 3 * 2 + 1, 5 * 3 * 2),  # three templates
        "tda": (1, 0),
        "boostadapter": (64, 0),
    }
    for method in baseline_methods():
        cost = method(policy, images(policy, method, ["p"]), {})[0].cost
        assert (cost.forwards, cost.backwards) == expected[method.name], method.name
