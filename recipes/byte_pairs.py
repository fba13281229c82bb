"""Byte-pair vocabularies in open_clip's format, for the recipes that train a model from scratch."""

from __future__ import annotations

import gzip
import itertools
import re
from collections import Counter
from pathlib import Path


def train_merges(captions: Counter[str], count: int) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first (Sennrich et al. 2016), over lower-cased words."""
    words: Counter[tuple[str, ...]] = Counter()
    for text, n in captions.items():
        for word in re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", text.lower()):  # the tokenizer's own split
            words[(*word[:-1], word[-1] + "</w>")] += n
    merges: list[tuple[str, str]] = []
    for _ in range(count):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, n in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += n
        if not pairs:
            break
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(best)
        merged: Counter[tuple[str, ...]] = Counter()
        for word, n in words.items():
            out: list[str] = []
            for symbol in word:
                if out and (out[-1], symbol) == best:
                    out[-1] += symbol
                else:
                    out.append(symbol)
            merged[tuple(out)] += n
        words = merged
    return merges


def write_vocabulary(file: Path, captions: Counter[str], count: int, name: str) -> int:
    """Writes the merges as a `bpe.txt.gz` of open_clip, the same bytes every time, and gives their number."""
    merges = train_merges(captions, count)
    text = f"#version: {name}\n" + "\n".join(" ".join(pair) for pair in merges)  # no last newline: it would be a merge
    with file.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as stream:
        stream.write(text.encode())
    return len(merges)
