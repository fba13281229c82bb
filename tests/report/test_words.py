"""What is called shifted."""

from __future__ import annotations

import pytest

from grpo_tta.report.words import words_for


@pytest.mark.parametrize(
    ("kinds", "mean"),
    [
        (["real"], "mean over tasks"),
        (["source", "real", "stream"], "mean over tasks"),
        (["real", "shifted"], "shifted mean"),
        (["cross-domain"], "shifted mean"),
        (["source"], "shifted mean"),
    ],
)
def test_photographs_as_they_are_have_not_been_shifted(kinds: list[str], mean: str) -> None:
    assert words_for(kinds).mean == mean


def test_tasks_are_counted() -> None:
    assert words_for(["real"]).tasks(1) == "1 task"
    assert words_for(["shifted"]).tasks(3) == "3 shifted tasks"
