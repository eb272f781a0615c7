"""Rows that a model refused before it answered any: each one's own fault, or that of the form of all requests.

SAME_REFUSALS different rows refused for one reason are the lane's fault, and so are all rows there were, if they are LEAST_ROWS or
more: they stay open. Fewer are refused for what they are. What content filters held back is not counted here: of many
prompts it can be true. A reason is what a provider says without what differs from row to row: numbers, ids, quoted words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jobs.journal.rows import Answer

SAME_REFUSALS = 20
LEAST_ROWS = 3
REASON_CHARS = 80
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|\[prompt\]|https?://\S+")
_WITH_DIGITS = re.compile(r"[\w-]*\d[\w-]*")


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that is refused, and not settled yet."""

    reason: str
    answer: Answer
    """Its entry, if the refusal is its own fault."""


def reason_of(error: str) -> str:
    """What two rows that are refused alike have in common."""
    said = _WITH_DIGITS.sub("0", _QUOTED.sub("…", error.lower()))
    return " ".join(said.split())[:REASON_CHARS]


def fault_of(alias: str, refused: Sequence[Refused], what: str = "all of its first {} requests") -> str:
    """Why the lane has to stop, of all rows that a model refused and none that it answered; "" where the refusals are the rows'."""
    rows = {each.answer.row_key: each for each in refused}
    counts: dict[str, int] = {}
    for each in rows.values():
        counts[each.reason] = counts.get(each.reason, 0) + 1
    reason = max(counts, key=lambda name: counts[name], default="")
    n = counts.get(reason, 0)
    if n < SAME_REFUSALS and (n < LEAST_ROWS or n < len(rows)):
        return ""
    said = next(each.answer.error for each in rows.values() if each.reason == reason)
    return f"models.{alias}: refused {what.format(n)}; mend what it says ({said})"


def entries_of(refused: Sequence[Refused], *, are_the_rows: bool) -> list[Answer]:
    """What the journal has to say of these rows: all of them, or, where they stay open, what some have cost before."""
    if are_the_rows:
        return [each.answer for each in refused]
    return [replace(each.answer, kind="failed") for each in refused if each.answer.lost_usd]
