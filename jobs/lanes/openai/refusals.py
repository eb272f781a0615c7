"""Whose fault it is when rows of a model fail: theirs, or the lane's.

The row's fault is settled: the row is rejected, with an error. The lane's fault (the key, the model's name, the quota, an endpoint
that is gone) stops all senders through the governor, and leaves their rows open. A refusal that could be either is held back.
Once the model answers another row it was the row's fault; after SAME_REFUSALS of the same kind in a row it is the lane's.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from jobs.journal.rows import Answer
from jobs.lanes.faults import Diagnosis
from jobs.money.sender import Allowance

SAME_REFUSALS = 20
"""Equal 400 or 422 replies in a row that mean the form of the requests is wrong, not the rows."""
FAILED_IN_A_ROW = 20
"""Rows given up one after the other, none answered between, that mean the endpoint is not working."""
_DIGITS = re.compile(r"\d+")


class Refusals:
    """The rows of one process that the provider would not, or could not, answer. Lives on its event loop."""

    def __init__(
        self, alias: str, url: str, allowance: Allowance, settle: Callable[[Answer], Awaitable[Answer | None]]
    ) -> None:
        """`settle`: writes a row's entry; None where the journal failed."""
        self.dropped: set[int] = set()
        """Keys of rows that an answer was made for and that stay open all the same: see `release_held`."""
        self._alias, self._url, self._allowance, self._settle = alias, url, allowance, settle
        self._failed_in_a_row = 0
        self._refusal, self._n_refusals = "", 0
        self._held: list[Answer] = []
        self._answers = False
        """Whether the model is known to answer: it has, here or anywhere in the job."""

    async def answered(self) -> None:
        """The model has answered a row."""
        self._failed_in_a_row = self._n_refusals = 0
        self._answers = True
        await self.release_held()

    async def refuse(self, answer: Answer, diagnosis: Diagnosis) -> Answer | None:
        """A row the provider will not answer. Equal refusals in a row are held back until it is clear whose fault."""
        if not diagnosis.repeated_means_lane:
            return await self._settle(answer)
        refusal = _DIGITS.sub("0", diagnosis.message)  # counts of tokens differ from row to row
        if refusal != self._refusal:
            await self.release_held()
            self._refusal, self._n_refusals = refusal, 0
        self._n_refusals += 1
        self._held.append(answer)
        if self._n_refusals >= SAME_REFUSALS:
            alias = self._alias
            await self._allowance.stop(
                f"models.{alias}: refused {SAME_REFUSALS} requests in a row; mend what it says ({answer.error})"
            )
        return answer

    async def release_held(self) -> None:
        """Settle the refusals held back: they are the rows' fault; or drop them: the lane was stopped for them."""
        held, self._held = self._held, []
        for answer in held:
            lanes_fault = self._n_refusals >= SAME_REFUSALS and not answer.lost_usd
            waited = answer.row_key in self.dropped
            if lanes_fault or await self._settle(answer) is None:
                self.dropped.add(answer.row_key)
            elif waited:
                self._allowance.add(left=-1)

    async def end_block(self) -> None:
        """Settle what is held back, unless nothing shows so far that the model answers at all.

        A small block may be through before SAME_REFUSALS have come: its rows are open then until an answer comes, here and now or
        in another run. Where none ever does, the governor knows what to say of it.
        """
        if self._held and not self._answers and not self._allowance.stopped:
            self._answers = await self._allowance.has_answers()
        if self._answers or self._allowance.stopped:
            await self.release_held()
        elif self._held:
            self.dropped |= {answer.row_key for answer in self._held}
            n, said = len(self._held), self._held[-1].error
            await self._allowance.doubt(
                f"models.{self._alias}: refused all of its first {n} requests; mend what it says ({said})"
            )

    async def give_up(self, answer: Answer, unreachable: bool) -> Answer | None:
        """A row out of attempts. Many of them in a row, or an endpoint that cannot be reached at all, stop the lane."""
        self._failed_in_a_row += 1
        if unreachable or self._failed_in_a_row >= FAILED_IN_A_ROW:
            what = "cannot be reached" if unreachable else f"failed {FAILED_IN_A_ROW} rows in a row"
            await self._allowance.stop(f"models.{self._alias}: {self._url} {what} ({answer.error})")
            if not answer.lost_usd:
                return None
        return await self._settle(answer)
