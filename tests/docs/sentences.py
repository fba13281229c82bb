"""How long the sentences of a page are: `python tests/docs/sentences.py [PAGE ...]` prints a table, the longest sentence last.

What counts is what a reader reads as prose. Left out are code blocks, tables, headings, images, formulas on lines of their
own and HTML comments. A list item is a paragraph of its own, whether or not it ends with a full stop. A sentence ends at a
full stop, a question mark or an exclamation mark before a space, or at the end of its paragraph; not at a colon or a
semicolon. A word is anything between spaces that holds a letter or a digit; a code span, a formula and a link's address count
as one word, one word and none.
"""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LONGEST_90TH = 30
"""The 90th percentile of a page's sentence lengths, in words, must not be above this."""

_BLOCKS = (
    re.compile(r"\A---\n.*?\n---\n", re.DOTALL),  # front matter
    re.compile(r"^[ \t]*```.*?^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL),
    re.compile(r"<!--.*?-->", re.DOTALL),
    re.compile(r"\$\$.*?\$\$", re.DOTALL),
)
_ITEM = re.compile(r"^\s*(?:[-*+]|\d+\.)\s+")
_END = re.compile(r"(?<=[.!?])[\"')*_]*\s+")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|vs|et al|etc|cf|Fig|Eq)\.$")


def pages() -> list[Path]:
    """The README and every page of the documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def paragraphs(text: str) -> list[str]:
    """The prose of a page: paragraphs and list items, without markup."""
    for pattern in _BLOCKS:
        text = pattern.sub("\n\n", text)
    found: list[list[str]] = [[]]
    for line in text.splitlines():
        bare = line.strip()
        if not bare or bare.startswith(("#", "|", "![", ":::", "[^")) or set(bare) <= set("-=* "):
            found.append([])
            continue
        if _ITEM.match(line):
            found.append([])
        found[-1].append(_ITEM.sub("", line).strip().removeprefix("> "))
    return [plain(" ".join(lines)) for lines in found if lines]


def plain(text: str) -> str:
    """Inline markup taken away: what is left is what is read."""
    text = re.sub(r"!\[[^]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]+`", "code", text)
    text = re.sub(r"\$[^$]+\$", "formula", text)
    return re.sub(r"<[^>]+>", "", text).strip()


def sentences(text: str) -> list[str]:
    """The sentences of a page, in its order."""
    found: list[str] = []
    for paragraph in paragraphs(text):
        open_end = False
        for part in _END.split(paragraph):
            if open_end:
                found[-1] += f" {part}"
            elif words(part):
                found.append(part)
            open_end = bool(found) and bool(_ABBREVIATION.search(part))
    return found


def words(sentence: str) -> int:
    return sum(any(letter.isalnum() for letter in word) for word in sentence.split())


def percentile_90(lengths: list[int]) -> int:
    """Nearest rank: nine in ten are not longer."""
    return sorted(lengths)[math.ceil(0.9 * len(lengths)) - 1] if lengths else 0


def main(arguments: list[str]) -> None:
    for page in [Path(argument) for argument in arguments] or pages():
        found = sentences(page.read_text())
        lengths = [words(sentence) for sentence in found]
        print(f"{percentile_90(lengths):3d}  {len(found):4d} sentences  {page.name}")
        if arguments:
            for sentence in found:
                if words(sentence) > LONGEST_90TH:
                    print(f"       {words(sentence)}: {sentence}")


if __name__ == "__main__":
    main(sys.argv[1:])
