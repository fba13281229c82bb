"""The command that makes rows again: it has the words that were typed."""

from __future__ import annotations

import shlex

from grpo_tta.report.commands import Commands, split_outside

NANO = {"suite": "nano", "split": "reporting", "limit": 4}
SOURCES = {
    "fog": NANO | {"task": "fog"},
    "letters": NANO | {"task": "letters"},
    "mine": {"data": "my photos", "labels_file": "names.txt", "template": "a {}.", "limit": None},
    "mine-fog-3": {"data": "x", "labels_file": None, "template": "a photo of a {}.", "limit": 2}
    | {"corruption": "fog", "severity": 3},
    "dtd": {"dataset": "dtd", "root": "sets", "split": "tuning", "official": False, "template": "coop", "limit": 5},
    "tiny": {"suite": "photos", "split": "tuning", "limit": None, "task": "tiny"},
    "unknown": {},
}


def test_tasks_of_a_suite_share_a_command() -> None:
    found = Commands("nano-clip", SOURCES).lines(["fog", "letters"], ["grpo-tta"], [0, 1])
    words = "--limit 4 --tasks fog,letters --model nano-clip --methods grpo-tta --seeds 0,1 --out runs/again"
    assert found == f"grpo-tta bench {words}"


def test_each_kind_of_data_has_its_words() -> None:
    found = Commands("nano-clip", SOURCES)
    (mine, fog, dtd, tiny) = (found.lines([name], ["tent"], [2]) for name in ("mine", "mine-fog-3", "dtd", "tiny"))
    assert shlex.split(mine)[2:8] == ["--data", "my photos", "--labels-file", "names.txt", "--template", "a {}."]
    assert mine.endswith("--methods tent --seed 2 --out runs/again")
    assert "--data x --limit 2 --corruptions fog --severities 3 " in fog
    assert "--dataset dtd --root sets --split tuning --template coop --limit 5 " in dtd
    assert "--suite photos --photos-root DATA --split tuning --tasks tiny " in tiny
    assert found.lines(["unknown"], ["tent"], [0]) == ""
    both = found.lines(["mine", "dtd"], ["tent"], [0]).splitlines()
    assert [line.rsplit(" ", 1)[1] for line in both] == ["runs/again/1", "runs/again/2"]  # a folder holds one run


def test_settings_teachers_and_limits_are_written() -> None:
    found = Commands("ViT-B-16 (mine.pt)", SOURCES, {"rlcf": "ViT-L-14/openai"}, {"rlcf": 3}, "bfloat16")
    assert "--limit-heavy 3 --teacher ViT-L-14/openai --dtype bfloat16" in found.lines(["fog"], ["rlcf"], [0])
    own = shlex.split(found.lines(["fog"], ["grpo-tta[group=Nucleus(mass=0.9, at_most=3),steps.count=3]"], [0]))
    assert own[own.index("--set") + 1] == "group=Nucleus(mass=0.9, at_most=3)"
    assert own[own.index("--set", own.index("--set") + 1) + 1] == "steps.count=3"
    assert own[own.index("--weights") + 1] == "mine.pt"


def test_a_taught_method_is_named_without_its_teacher() -> None:
    """`rlcf+TEACHER` is a name of the records; the command line knows `rlcf` and `--teacher`."""
    found = Commands("nano-clip", SOURCES, {"rlcf+photo-clip": "photo-clip"})
    assert "--methods rlcf --teacher photo-clip --out" in found.lines(["fog"], ["rlcf+photo-clip"], [0])


def test_one_command_runs_methods_together_where_there_is_one() -> None:
    teachers, own = {"rlcf+a": "a", "rlcf+b": "b"}, "grpo-tta[steps.count=3]"
    found = Commands("nano-clip", SOURCES, teachers, {"tpt": 3, "ttl": 3, "watt": 4})
    together = found.lines(["fog"], ["zero-shot", "rlcf", "rlcf+a", own, "tpt", "ttl"], [0])
    assert "--methods zero-shot,rlcf,tpt,ttl --set steps.count=3 --limit-heavy 3 --teacher a --out runs/again" in together
    for more in ("rlcf+b", "watt", "grpo-tta[steps.count=2]"):
        assert found.lines(["fog"], ["rlcf+a", own, "tpt", more], [0]) == ""


def test_commas_in_brackets_part_nothing() -> None:
    assert split_outside("a=f(1,2),b=[3,4],c") == ["a=f(1,2)", "b=[3,4]", "c"]
