"""Every page is written in plain, short sentences and in this project's words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.sentences import LONGEST_90TH, ROOT, pages, percentile_90, sentences, words

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
CARDS = sorted((ROOT / "src" / "grpo_tta" / "models").glob("*/README.md"))
BESIDE = [*CARDS, ROOT / "CONTRIBUTING.md", ROOT / "perf" / "README.md"]
CODE = [*EXAMPLES, *sorted((ROOT / "docs").glob("*.ipynb")), *sorted((ROOT / "docs").glob("*.py"))]
RATED = r"(?:\d|points|passes|images|photographs|milliseconds|seconds?|ms|GB|MB|settings?)"
RATES = r"(?:image|task|view|second|chunk|class|batch|step|method)"
RETIRED = {
    "told": r"\b(?:un)?told\b|\btells?\b",
    "at a loss": r"\bat a loss\b",
    "read off": r"\bread(?:s|ing)? off\b",
    "common opinion": r"\bcommon opinion\b",
    "could not be had": r"\b(?:could|can)(?:not| not) be had\b",
    "picture": r"\bpictures?\b",
    "content-free copies": r"\bcontent-free cop(?:y|ies)\b",
    "peer": r"\bpeers?\b",
    "tower": r"\btowers?\b",
    "dear": r"\bdear\b",
    "an image, a task (rates)": rf"{RATED} an? {RATES}\b",
    "not run by the tests": r"Not run by the tests",
    "preset accurate": r"`accurate`",
    "paper's code or equations do not exist": r"no code of it|code is not public",
}  # fmt: skip


@pytest.mark.parametrize("page", [*pages(), *BESIDE], ids=lambda page: str(page.relative_to(ROOT)))
def test_sentences_are_short(page: Path) -> None:
    found = sentences(page.read_text())
    assert found, "a page without a sentence explains nothing"
    lengths = [words(sentence) for sentence in found]
    long = "\n".join(f"{words(s)}: {s}" for s in found if words(s) > LONGEST_90TH)
    assert percentile_90(lengths) <= LONGEST_90TH, f"the 90th percentile is {percentile_90(lengths)} words:\n{long}"


@pytest.mark.parametrize("page", [*pages(), *BESIDE, *CODE], ids=lambda page: str(page.relative_to(ROOT)))
def test_retired_phrases_do_not_occur(page: Path) -> None:
    text = page.read_text()
    found = {
        name: [text.count("\n", 0, match.start()) + 1 for match in re.finditer(pattern, text)]
        for name, pattern in RETIRED.items()
    }
    assert not {name: lines for name, lines in found.items() if lines}


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 130
    assert text.count("![") == 1, "one figure"
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 1
    assert len(tables[0].splitlines()) - 2 <= 8, "rows below the heading"


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("# Six words of a heading here\n\nOne two. Three!", [2, 1]),
        ("One two\nthree: four; five.\n", [5]),
        ("- one two\n- three four five\n  six\n1. seven", [2, 4, 1]),
        ("| a table | is left out |\n|---|---|\n\nOne.", [1]),
        ("```bash\none two three\n```\nfour\n<!-- five\nsix -->", [1]),
        ("`a b c` is [d e](f-g.md), 0.5 of $x + y$.", [7]),
        ("One, e.g. two. Three et al. four.", [3, 4]),
        ("$$a b c d$$\n\n![e f](g.png)", []),
        ("**Bold.** Then two. — – +", [1, 2]),
    ],
)
def test_what_counts_as_a_sentence(text: str, lengths: list[int]) -> None:
    assert [words(sentence) for sentence in sentences(text)] == lengths


def test_percentile_is_the_nearest_rank() -> None:
    assert percentile_90(list(range(1, 11))) == 9
    assert percentile_90([7]) == 7
