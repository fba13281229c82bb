"""A second model as reward: the methods that can take one, with the teacher in their name and in their settings.

A teacher's prompts are made from each task's labels and templates, as the adapted model's are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final
from weakref import WeakKeyDictionary

from grpo_tta.backbones.base import Backbone
from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.baselines.common import encoder_cached_blocks
from grpo_tta.baselines.rlcf import RLCFSettings, rlcf
from grpo_tta.engine.interface import Adaptation, ImageBatch, Method, State
from grpo_tta.engine.policy import Policy

TAUGHT = {"rlcf": RLCFSettings(), "rlcf-full": RLCFSettings(tuned="whole")}
"""The methods that take a teacher, by the name of the form without one."""


@final
@dataclass(frozen=True)
class TaughtSettings:
    """
    Attributes:
        method: settings of the method itself.
        teacher, fingerprint: which model scores, so that runs with another one are not mixed.
    """

    method: RLCFSettings
    teacher: str
    fingerprint: str


def taught_methods(names: Sequence[str], teacher: Backbone) -> list[Method]:
    """Those of the named methods that take a teacher, with this one; `rlcf` where none of them does.

    They are called `rlcf+TEACHER`.
    """
    chosen = [name for name in TAUGHT if name in names or "all" in names] or ["rlcf"]
    return [taught_rlcf_method(TAUGHT[name], teacher, name) for name in chosen]


def taught_rlcf_method(settings: RLCFSettings, teacher: Backbone, name: str = "rlcf") -> Method:
    """RLCF with a teacher as its paper has it; see `grpo_tta.baselines.rlcf`."""
    # One policy of the teacher's for each of the adapted model's, which lives as long as a task.
    policies: WeakKeyDictionary[Policy, Policy] = WeakKeyDictionary()

    def cached_blocks(backbone: Backbone) -> Sequence[int]:
        return encoder_cached_blocks(backbone, settings.tuned)

    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        if policy not in policies:
            prompts = policy.prompts
            made = make_prompts(teacher, prompts.labels, prompts.templates, prompts.ensemble, repeats=True)  # checked before
            policies[policy] = Policy(teacher, made)
        return rlcf(policy, batch, settings, policies[policy]), state

    described = TaughtSettings(settings, teacher.name, teacher.fingerprint)
    title = f"{name}+{short_name(teacher)}"
    return Method(title, "episodic", "teacher", settings.views, 0, described, cached_blocks, run, teacher.name)


def short_name(backbone: Backbone) -> str:
    """A folder's own name for a model from a folder, which may lie deep; else the model's name."""
    path = Path(backbone.name).expanduser()
    return path.resolve().name if path.is_dir() else backbone.name
