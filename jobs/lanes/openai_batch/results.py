"""What a batch that has ended came to, row by row: answers as they are read, refusals and second tries once all is read.

Answers are settled while the files are read, in any order; each row counts once, however often a cut download repeats
it. Refusals are held back until it is clear whether the rows or the form of all requests is at fault. Memory: O(rows)
while the files are read; what is kept of an answer then is 44 bytes, for its text is in the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from jobs.journal.refused import Refused, fault_of, reason_of
from jobs.journal.rows import Answer, Kind
from jobs.lanes.base import LaneContext
from jobs.lanes.faults import Diagnosis, clean
from jobs.lanes.openai.exchange import BILLED_ATTEMPTS
from jobs.lanes.openai.rows import COUNTED, Counted, counted_row
from jobs.lanes.openai_batch.api import BatchApi, Gone
from jobs.lanes.openai_batch.manifest import FileRow
from jobs.lanes.openai_batch.rows import Attempt, Line, Pending, attempt_of, read_line
from jobs.lanes.openai_batch.state import BatchState
from jobs.money.excess import Excess
from jobs.money.messages import Terms

QUEUE_FULL = "token_limit_exceeded"
_TRANSIENT = {"", "server_error", "internal_error", "service_unavailable", "timeout"}


@dataclass(slots=True)
class Outcome:
    """Of one batch, or of a block's part of one."""

    settled: Counted = field(default_factory=lambda: np.empty(0, COUNTED))
    """In the journal now: answered, rejected, and failed for good."""
    again: list[Pending] = field(default_factory=list)
    """To be sent once more."""
    done: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Sorted keys that need not be sent again in this session: those of `settled`, and what earlier processes settled."""
    bound_tokens: int = 0
    used_tokens: int = 0
    """Of the answers whose tokens the provider counted: the bound of the prompt tokens, and their number."""
    excess: Excess = field(default_factory=Excess)
    """How far replies went beyond what was reserved for them; how many cost more, and how much more."""
    beyond: int = 0
    beyond_usd: float = 0.0
    uncharged: int = 0
    """Answers that do not say what they cost, in a job that books what the provider says."""
    fault: str = ""
    """The lane's own, with the fix: nothing more should be sent."""
    error: str = ""
    """What a failed batch said."""
    queue_full: bool = False
    gone: bool = False
    """The provider does not know the batch, or a file of it, any more: what it charged for it is not known."""


@dataclass(slots=True)
class _Unanswered:
    """A row without an answer: why, and what it cost."""

    row: FileRow
    diagnosis: Diagnosis
    error: str
    lost_usd: float = 0.0


class Results:
    """Reads the results of one batch that has ended."""

    def __init__(
        self,
        context: LaneContext,
        key: str,
        rows: Mapping[int, FileRow],
        pending: Mapping[int, Pending],
        journaled: NDArray[np.int64],
        settle: Callable[[Answer], None],
        *,
        terms: Terms,
        answered: bool = False,
    ) -> None:
        """`pending`: those of the rows that can be sent again; `journaled`: those that are settled already; `settle` does it;
        `terms`: what was known of the model when they were read; `answered`: it is known to answer."""
        self._context, self._key, self._rows, self._pending = context, key, rows, pending
        self._journaled, self._settle, self._terms, self._answered = journaled, settle, terms, answered
        self._seen = set(journaled.tolist())
        self._kept: list[tuple[int, int, int, int, float]] = []
        self._failed: list[_Unanswered] = []
        self._latency_s = 0.0
        self._outcome = Outcome()

    def of_failed(self, batch: BatchState) -> Outcome:
        """A batch that was refused whole: nothing of it was executed or charged."""
        code, outcome, alias = batch.error.code, self._outcome, self._context.alias
        where = f", line {batch.error.line}" if batch.error.line else ""
        outcome.error = clean(f"{code}{where}: {batch.error.message}", self._key)
        outcome.queue_full = code == QUEUE_FULL
        if outcome.queue_full:
            for pending in self._pending.values():  # the provider never looked at them
                pending.tries -= 1
                pending.file_row = replace(pending.file_row, attempts=pending.file_row.attempts - 1)
        elif code not in _TRANSIENT:
            outcome.fault = (
                f"models.{alias}: the provider refused batch {batch.batch_id}; mend what it says ({outcome.error})"
            )
        outcome.again = list(self._pending.values())
        return self._ended()

    def of_gone(self) -> Outcome:
        """A batch, or a file of it, that the provider does not know any more: what was not read before is asked again."""
        self._outcome.gone = True
        return self._without_answer("its batch is gone at the provider")

    async def of_files(self, batch: BatchState, api: BatchApi) -> Outcome:
        """Settle what the output and error files of a completed, expired or cancelled batch hold."""
        self._latency_s = batch.latency_s
        try:
            await self._read(batch, api)
        except Gone:
            return self.of_gone()
        if batch.status == "cancelled":
            self._outcome.fault = (
                f"models.{self._context.alias}: batch {batch.batch_id} was cancelled at the provider; "
                "run the same command again to ask its other rows"
            )
        return self._without_answer("missing from the results of its batch")

    async def _read(self, batch: BatchState, api: BatchApi) -> None:
        """Settle what is answered; what is not is known when all is read."""
        for file_id in batch.files:
            async for raw in api.lines(file_id):
                line = read_line(raw)
                if line is None or line.row_key not in self._rows or line.row_key in self._seen:
                    continue
                self._seen.add(line.row_key)
                row = self._rows[line.row_key]
                attempt = attempt_of(line, row, self._context, self._latency_s, self._terms)
                self._learn(row, attempt)
                if attempt.answer is not None:
                    self._keep(attempt.answer)
                elif attempt.diagnosis is not None:
                    error = self._clean(attempt, line)
                    self._failed.append(_Unanswered(row, attempt.diagnosis, error, attempt.lost_usd))

    def _without_answer(self, why: str) -> Outcome:
        """All lines are read: what becomes of the rows that have no answer, those that no line is about among them."""
        diagnosis = Diagnosis("retry", why)
        for row_key, row in self._rows.items():
            if row_key not in self._seen:
                self._failed.append(_Unanswered(row, diagnosis, why))
        self._unanswered()
        return self._ended()

    def _ended(self) -> Outcome:
        outcome = self._outcome
        outcome.settled = np.array(self._kept, COUNTED)
        outcome.done = np.union1d(self._journaled, outcome.settled["row_key"])
        return outcome

    def _keep(self, answer: Answer) -> None:
        self._settle(answer)
        self._kept.append(counted_row(answer))
        if answer.token_source == "provider":
            outcome, bound, used = self._outcome, self._rows[answer.row_key].bound, answer.prompt_tokens or 0
            outcome.bound_tokens += bound
            outcome.used_tokens += used

    def _learn(self, row: FileRow, attempt: Attempt) -> None:
        """What a line shows of what such requests cost."""
        outcome = self._outcome
        outcome.excess |= attempt.excess
        outcome.uncharged += attempt.is_uncharged
        paid_usd = attempt.lost_usd if attempt.answer is None else attempt.answer.cost_usd
        beyond_usd = paid_usd - row.bounds.worst_usd(self._context, self._terms.excess)
        if beyond_usd > 1e-12:
            outcome.beyond += 1
            outcome.beyond_usd += beyond_usd

    def _unanswered(self) -> None:
        """Rejected rows are settled, the others go on or are given up; the lane's own faults leave their rows open."""
        refused = [
            Refused(reason_of(each.diagnosis.message), self._entry("rejected", each))
            for each in self._failed
            if each.diagnosis.kind == "row" and each.diagnosis.repeated_means_lane
        ]
        # Of answers, also those of other batches and of earlier starts: what is refused beside them is refused for what it is.
        answered = self._answered or self._kept
        fault = "" if answered else fault_of(self._context.alias, refused, "{} requests of a batch")
        self._outcome.fault = self._outcome.fault or fault
        for each in self._failed:
            diagnosis = each.diagnosis
            if diagnosis.kind == "lane":
                self._outcome.fault = self._outcome.fault or each.error
            elif diagnosis.kind == "row":
                if fault and diagnosis.repeated_means_lane:
                    if each.lost_usd:
                        self._settle(self._entry("failed", each))
                else:
                    self._keep(self._entry("rejected", each))
            else:
                self._try_again(each)

    def _try_again(self, each: _Unanswered) -> None:
        """Another batch, unless the row has had its tries. What was charged is journaled at once, under this batch."""
        pending = self._pending.get(each.row.head.row_key)
        entry = self._entry("failed", each)
        if pending is not None:
            pending.billed += each.lost_usd > 0
            if pending.tries >= self._context.model.retries.attempts or pending.billed >= BILLED_ATTEMPTS:
                self._keep(entry)
                return
        if each.lost_usd:
            self._settle(entry)
        if pending is not None and not self._outcome.fault:
            pending.file_row = replace(pending.file_row, attempts=0 if each.lost_usd else each.row.attempts)
            self._outcome.again.append(pending)

    def _entry(self, kind: Kind, each: _Unanswered) -> Answer:
        row, lost_usd = each.row, each.lost_usd
        return row.head.unanswered(
            kind, each.error, attempts=row.attempts, latency_s=self._latency_s, lost_usd=lost_usd
        )

    def _clean(self, attempt: Attempt, line: Line) -> str:
        """The diagnosis's message without key and prompt; without the provider's words where the prompt is not at hand."""
        assert attempt.diagnosis is not None
        message, pending = attempt.diagnosis.message, self._pending.get(line.row_key)
        if pending is not None:
            return clean(message, self._key, pending.row.block["messages"][pending.row.place].as_py())
        if line.status == 0:
            return clean(line.error.code or "not executed")
        return clean(message.replace(f": {attempt.said}", "") if attempt.said else message, self._key)
