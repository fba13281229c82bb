"""The committed leaderboard is of the present version: its methods, protocols and settings are those of the registry."""

from __future__ import annotations

from importlib.metadata import version

from grpo_tta.backbones.base import load_backbone
from grpo_tta.baselines.registry import known_methods
from grpo_tta.baselines.teacher import taught_methods
from grpo_tta.config.serialise import short_hash
from grpo_tta.report.leaderboard import BEGIN, COLUMNS, END
from tests.docs.sentences import ROOT


def test_the_leaderboard_is_of_the_present_version() -> None:
    section = (ROOT / "docs" / "leaderboard.md").read_text().split(BEGIN)[1].split(END)[0]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")]
    assert tuple(lines[0]) == COLUMNS
    rows = [dict(zip(COLUMNS, line, strict=True)) for line in lines[2:]]
    methods = known_methods() | {method.name: method for method in taught_methods(["rlcf"], load_backbone("photo-clip"))}
    assert len(rows) > 10
    for row in rows:
        method = methods[row["method"]]
        assert row["protocol"] == method.protocol
        assert row["settings"] == f"`{short_hash(method.settings)}`", (
            f"{row['method']} has other settings now: make the page anew"
        )
    assert f"grpo-tta {version('grpo-tta')}." in section
    for words in ("Model nano-clip", "n = 20 images per task", "seed 0", "grpo-tta bench --limit 20 "):
        assert words in section
    blocks: dict[tuple[str, bool], list[float]] = {}
    for row in rows:
        blocks.setdefault((row["protocol"], row["teacher"] == "–"), []).append(float(row["accuracy"]))
    assert len(blocks) == 4  # the three protocols, and episodic with a teacher
    assert all(block == sorted(block, reverse=True) for block in blocks.values())
