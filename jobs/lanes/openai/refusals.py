"""Whose fault it is when rows of a model fail: theirs, or the lane's.

The row's fault is settled: the row is rejected, with an error. The lane's fault (the key, the model's name, the quota, an endpoint
that is gone) stops all senders through the governor, and leaves their rows open. A refusal that could be either is held back until
the model answers some row: it was the row's then. SAME_REFUSALS different rows refused for one reason before any is answered mean
the lane, once what was under way beside them has come to nothing too; of fewer, the governor decides when all are through
(`jobs.journal.refused`). A model that is known to answer stops for IN_A_ROW alone, and those rows are settled.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from jobs.journal.refused import SAME_REFUSALS, Refused, entries_of, reason_of
from jobs.journal.rows import Answer
from jobs.lanes.faults import Diagnosis
from jobs.money.sender import Allowance

FAILED_IN_A_ROW = 20
"""Rows given up one after the other, none answered between, that mean the endpoint is not working."""
IN_A_ROW = 1000
"""Rows refused one after the other, none answered between, by a model that has answered before: something has changed."""
MOST_HELD = 3 * SAME_REFUSALS
"""Rows refused for whatever reasons before any is answered."""


class Refusals:
    """The rows of one process that the provider would not, or could not, answer. Lives on its event loop."""

    def __init__(
        self, alias: str, url: str, allowance: Allowance, settle: Callable[[Answer], Awaitable[Answer | None]]
    ) -> None:
        """`settle`: writes a row's entry; None where the journal failed."""
        self.dropped: set[int] = set()
        """Keys of rows that an answer was made for and that stay open all the same."""
        self._alias, self._url, self._allowance, self._settle = alias, url, allowance, settle
        self._failed_in_a_row = self._refused_in_a_row = 0
        self._held: list[Refused] = []
        self._counts: Counter[str] = Counter()
        self._answers = False
        """Whether the model is known to answer: it has, here or anywhere in the job."""
        self._certain, self._n_under_way = asyncio.Event(), 0
        self._certain.set()

    async def may_send(self) -> bool:
        """Whether a request may go: not once the lane is stopped. While many refusals are in doubt, nothing new is sent."""
        while not self._certain.is_set() and not self._allowance.stopped:
            await self._certain.wait()
        return not self._allowance.stopped

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Around a request that is under way."""
        self._n_under_way += 1
        try:
            yield
        finally:
            self._n_under_way -= 1

    async def known_to_answer(self) -> bool:
        """Whether the model has answered anything, in this process or in the job."""
        if not self._answers and not self._allowance.stopped:
            elsewhere = await self._allowance.has_answers()
            self._answers = self._answers or elsewhere  # one may have come meanwhile
        return self._answers

    async def answered(self) -> None:
        """The model has answered a row."""
        self._failed_in_a_row = self._refused_in_a_row = 0
        self._answers = True
        await self._settle_held()

    async def refuse(self, answer: Answer, diagnosis: Diagnosis) -> Answer | None:
        """A row that the provider will not answer."""
        if not diagnosis.repeated_means_lane:
            return await self._settle(answer)
        if self._held or not await self.known_to_answer():
            return await self._hold(answer)
        self._refused_in_a_row += 1
        if self._refused_in_a_row >= IN_A_ROW:
            await self._stop(IN_A_ROW, answer.error)
        return await self._settle(answer)

    async def _hold(self, answer: Answer) -> Answer:
        reason = reason_of(answer.error)
        self._held.append(Refused(reason, answer))
        self._counts[reason] += 1
        if self._counts[reason] >= SAME_REFUSALS or len(self._held) >= MOST_HELD:
            self._certain.clear()
        return answer

    async def looked_at(self) -> None:
        """A reply that was no answer has been dealt with. With the last one under way, refusals in doubt are decided."""
        if self._certain.is_set() or self._n_under_way:
            return
        if self._held and not self._allowance.stopped and not await self.known_to_answer():
            reason, n = self._counts.most_common(1)[0]
            n = n if n >= SAME_REFUSALS else len(self._held)
            await self._stop(n, next(each.answer.error for each in self._held if each.reason == reason))
        elif not self._allowance.stopped:
            await self._settle_held()
        self._certain.set()

    async def _stop(self, n: int, said: str) -> None:
        await self._allowance.stop(f"models.{self._alias}: refused {n:,} requests in a row; mend what it says ({said})")

    async def _settle_held(self) -> None:
        """The model answers: what it refused is the rows' fault."""
        held, self._held = self._held, []
        self._counts.clear()
        for each in held:
            if await self._settle(each.answer) is None:
                self.dropped.add(each.answer.row_key)
        self._certain.set()

    async def end_block(self) -> None:
        """Settle what is held back, unless nothing shows so far that the model answers at all: the governor keeps it then."""
        if not self._held:
            return
        if await self.known_to_answer():
            await self._settle_held()
            return
        held, self._held = self._held, []
        self.dropped |= {each.answer.row_key for each in held}
        if not self._allowance.stopped:
            await self._allowance.doubt(held)
            return
        for answer in entries_of(held, are_the_rows=False):
            await self._settle(answer)

    async def give_up(self, answer: Answer, unreachable: bool) -> Answer | None:
        """A row out of attempts. Many of them in a row, or an endpoint that cannot be reached at all, stop the lane."""
        self._failed_in_a_row += 1
        if unreachable or self._failed_in_a_row >= FAILED_IN_A_ROW:
            what = "cannot be reached" if unreachable else f"failed {FAILED_IN_A_ROW} rows in a row"
            await self._allowance.stop(f"models.{self._alias}: {self._url} {what} ({answer.error})")
            if not answer.lost_usd:
                return None
        return await self._settle(answer)
