"""How a report speaks of the tasks that it has: "shifted" only where something was shifted on purpose."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import final

from grpo_tta.data.tasks import SHIFTED_MEAN


@final
@dataclass(frozen=True)
class Words:
    """
    Attributes:
        mean: of the tasks that are averaged.
        adjective: of these tasks, with a blank behind it; empty where they have none.
    """

    mean: str = "shifted mean"
    adjective: str = "shifted "

    def tasks(self, count: int) -> str:
        """So many of the tasks that are averaged."""
        return f"{count} {self.adjective}task{'' if count == 1 else 's'}"


def words_for(kinds: Collection[str]) -> Words:
    """The words for tasks of these kinds. Photographs as they are have not been shifted by anyone."""
    averaged = {kind for kind in kinds if kind in SHIFTED_MEAN}
    return Words("mean over tasks", "") if averaged == {"real"} else Words()
