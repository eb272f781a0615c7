"""Rows that a model here refuses before it has answered any: kept apart, for it may be the form of all of them.

A chat template that knows no system message refuses every row, and in no time, while the engine still loads: so nothing is decided
here. The governor is given the rows, and tells when the lane is through whose fault it was (`jobs.journal.refused`).
Prompts that are too long are no doubt: their tokens are counted. Cost: a call a block, until a row is answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from jobs.errors import LaneDown
from jobs.journal.refused import Refused, reason_of
from jobs.journal.rows import Answer
from jobs.lanes.base import LaneContext
from jobs.lanes.faults import is_too_long_error
from jobs.money.messages import Report

MOST_ROWS = 1024
"""Rows refused and none answered, after which the lane does not read on."""


class Doubts:
    """Of one lane, whose answers all come by here."""

    def __init__(self, context: LaneContext, source: str) -> None:
        """`source` names this process at the governor."""
        self._context, self._source = context, source
        self._answers, self._n = context.governor is None, 0

    def sift(self, entries: Sequence[Answer]) -> list[Answer]:
        """Those of a block that can be settled. Raises LaneDown where nothing but refusals comes."""
        if self._answers:
            return list(entries)
        refused = [each for each in entries if each.kind == "rejected" and not each.is_empty]
        doubtful = [each for each in refused if not is_too_long_error(each.error)]
        answers = any(each.kind == "answered" or each.is_empty for each in entries)
        if doubtful and not answers:
            answers = self._ask_governor(doubtful)
        elif answers:
            self._tell_governor()
        self._answers = answers
        waiting = set() if answers else {each.row_key for each in doubtful}
        return [each for each in entries if each.row_key not in waiting]

    def _ask_governor(self, doubtful: Sequence[Answer]) -> bool:
        """Whether the model has answered in an earlier start; else the rows are in doubt from now on."""
        governor, alias = self._context.governor, self._context.alias
        assert governor is not None
        if asyncio.run(governor.has_answers(alias)):
            return True
        self._n += len(doubtful)
        if self._n >= MOST_ROWS:
            raise LaneDown(
                f"models.{alias}: refused its first {self._n:,} rows; mend what it says ({doubtful[-1].error})"
            )
        asyncio.run(governor.doubt(alias, [Refused(reason_of(each.error), each) for each in doubtful]))
        return False

    def _tell_governor(self) -> None:
        governor = self._context.governor
        if governor is not None:
            asyncio.run(governor.report(self._context.alias, self._source, Report(answered=1)))
