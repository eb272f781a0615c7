"""Texts compared for what they say, whatever their case, their blanks and the marks around them."""

from __future__ import annotations

import re
import unicodedata

_DOTTED = re.compile(r"(-?\d+)\.0+")


def normal(text: str) -> str:
    """Case-folded, white space collapsed, surrounding punctuation and quotes off, unless there is nothing else."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    start, end = 0, len(folded)
    while start < end and _is_wrapping(folded[start]):
        start += 1
    while end > start and _is_wrapping(folded[end - 1]):
        end -= 1
    return folded[start:end] or folded


def _is_wrapping(character: str) -> bool:
    """Punctuation and blanks; a sign, a percent or a currency mark is content."""
    if character.isspace() or character in "*`":
        return True
    return unicodedata.category(character)[0] == "P" and character not in "-%#@&"


def undotted(text: str) -> str:
    """A whole number without decimals: a column of numbers with gaps holds 3.0 for 3."""
    found = _DOTTED.fullmatch(text)
    return found[1] if found else text
