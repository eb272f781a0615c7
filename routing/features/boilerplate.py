"""Lines that recur in many prompts of a set: few-shot examples, instructions, answer formats.

A prompt with five worked examples before its question is 1,400 characters of the same text as its neighbours: an
encoder that reads 256 tokens sees nothing else, and n-grams see it most. Lines learnt from the training prompts are
left out before features are made; row i still depends on prompt i alone. O(total length). Legend: n prompts, b lines.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

MIN_SHARE, MIN_PROMPTS = 0.1, 20
"""A line is boilerplate when it is in that share of the different prompts, and in so many of them."""
MIN_CHARS = 24
"""Shorter lines ("A. True") may be options; a paragraph (between blank lines) may be of any length."""


def find_boilerplate(prompts: Sequence[str]) -> NDArray[np.uint64]:
    """(b,) digests of the lines and paragraphs to leave out, ascending."""
    different = set(prompts)
    counts: Counter[int] = Counter()
    for prompt in different:
        counts.update({_digest(piece) for piece in _pieces(prompt)})
    least = max(MIN_PROMPTS, MIN_SHARE * len(different))
    return np.array(sorted(key for key, count in counts.items() if count >= least), np.uint64)


def without_boilerplate(prompts: Sequence[str], digests: NDArray[np.uint64]) -> list[str]:
    """The prompts without those lines; one that would be left empty stays whole."""
    if not len(digests):
        return list(prompts)
    known = set(digests.tolist())
    return [_inner(prompt, known) for prompt in prompts]


def _inner(prompt: str, known: set[int]) -> str:
    kept = []
    for paragraph in prompt.split("\n\n"):
        if _digest(paragraph.strip()) in known:
            continue
        lines = [line for line in paragraph.split("\n") if len(line) < MIN_CHARS or _digest(line.strip()) not in known]
        if lines:
            kept.append("\n".join(lines))
    inner = "\n\n".join(kept)
    return inner if inner.strip() else prompt


def _pieces(prompt: str) -> Iterator[str]:
    for paragraph in prompt.split("\n\n"):
        yield paragraph.strip()
        if "\n" in paragraph:
            yield from (line.strip() for line in paragraph.split("\n") if len(line) >= MIN_CHARS)


def _digest(text: str) -> int:
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
