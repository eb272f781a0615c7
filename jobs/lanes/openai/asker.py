"""One process's view of a model's endpoint: sends requests, settles rows, and knows when nobody should send any more.

A failed request is the fault of its row or of the lane. The row's fault is settled: the row is rejected, with an error. The
lane's fault (the key, the model's name, the quota, an endpoint that is gone) stops all senders through the governor, and leaves
their rows open. A refusal that could be either is held back. Once the model answers another row it was the row's fault; after
SAME_REFUSALS of the same kind in a row it is the lane's. `jobs.lanes.openai.exchange` is the way of a single row.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from jobs.errors import HeadgateError
from jobs.journal.rows import Answer
from jobs.journal.writer import JournalWriter
from jobs.lanes.base import LaneContext
from jobs.lanes.chat import JsonObject
from jobs.lanes.faults import Diagnosis, diagnose, read_error, stated_limits
from jobs.lanes.openai.booking import Booking
from jobs.lanes.openai.endpoint import Endpoint
from jobs.lanes.openai.slots import Slots
from jobs.lanes.replies import Completion, ReplyError, parse_completion
from jobs.money.sender import Allowance


@dataclass(frozen=True, slots=True)
class Reply:
    """What one attempt came to: exactly one of completion and diagnosis."""

    completion: Completion | None = None
    diagnosis: Diagnosis | None = None
    lost_usd: float | None = 0.0
    """Of an attempt that brought nothing; None: its worst case. Above 0 or None: it may have been charged."""
    unreachable: bool = False
    """No connection came about."""


SAME_REFUSALS = 20
"""Equal 400 or 422 replies in a row that mean the form of the requests is wrong, not the rows."""
FIRST = 4
"""Requests under way before any has ended."""
FAILED_IN_A_ROW = 20
"""Rows given up one after the other, none answered between, that mean the endpoint is not working."""
_DIGITS = re.compile(r"\d+")


class Asker:
    """Asks one model's endpoint and settles rows in the journal. Lives on one event loop."""

    def __init__(
        self,
        context: LaneContext,
        endpoint: Endpoint,
        session: aiohttp.ClientSession,
        allowance: Allowance,
        journal: JournalWriter,
        slots: Slots,
    ) -> None:
        self.context, self.endpoint, self.slots, self.allowance = context, endpoint, slots, allowance
        self.booking = Booking(context, allowance)
        self.dropped: set[int] = set()
        """Keys of rows that `ask` gave an answer for and that stay open all the same: see `release_held`."""
        self.replied_at = -1.0
        """When any HTTP reply came last."""
        self._session, self._journal = session, journal
        self._failed_in_a_row = 0
        self._refusal, self._n_refusals = "", 0
        self._held: list[Answer] = []
        self._answers = False
        """Whether the model is known to answer: it has, here or anywhere in the job."""
        self._opened, self._n_first = asyncio.Event(), 0

    @asynccontextmanager
    async def opening(self) -> AsyncIterator[None]:
        """Around the sending of a request: until one is over, FIRST are under way and no more. Its headers tell the limits."""
        if not self._opened.is_set() and self._n_first >= FIRST:
            await self._opened.wait()
        self._n_first += 1
        try:
            yield
        finally:
            self._opened.set()

    async def send(self, payload: bytes, request: JsonObject) -> Reply:
        """One HTTP exchange, diagnosed."""
        model = self.context.model
        headers = {"Content-Type": "application/json"}
        if self.endpoint.key:
            headers["Authorization"] = f"Bearer {self.endpoint.key}"
        try:
            async with (
                asyncio.timeout(model.retries.timeout_s),
                self._session.post(
                    f"{self.endpoint.url}/chat/completions", data=payload, headers=headers, allow_redirects=False
                ) as response,
            ):
                raw = await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Reply(diagnosis=Diagnosis("retry", f"no connection ({type(error).__name__})"), unreachable=True)
        except TimeoutError:
            return Reply(diagnosis=Diagnosis("retry", f"no reply in {model.retries.timeout_s:g} s"), lost_usd=None)
        except aiohttp.ClientError as error:
            return Reply(diagnosis=Diagnosis("retry", f"connection lost ({type(error).__name__})"), lost_usd=None)
        self.replied_at = time.monotonic()
        self.allowance.state(stated_limits(response.headers))
        if response.status != 200:
            name = model.model or self.context.alias
            said, alias = read_error(raw), self.context.alias
            return Reply(diagnosis=diagnose(response.status, response.headers, said, alias, name, model.api_key_env))
        try:
            completion = parse_completion(raw, request)
        except ReplyError as unusable:
            lost_usd = self.booking.unusable_usd(unusable.usage, request, raw)
            return Reply(diagnosis=Diagnosis("retry", str(unusable)), lost_usd=lost_usd)
        return Reply(completion=self.booking.known(completion, request, raw))

    async def settle(self, answer: Answer) -> Answer | None:
        """To the journal, then to the counts. A journal that fails stops the lane; the answer is in its local log."""
        try:
            self._journal.append(answer)
        except HeadgateError as error:
            await self.allowance.stop(str(error))
            return None
        counts = {str(answer.kind): 1}
        if answer.kind == "answered":
            counts |= {"prompt_tokens": answer.prompt_tokens or 0, "completion_tokens": answer.completion_tokens or 0}
            self._failed_in_a_row = self._n_refusals = 0
            self._answers = True
            await self.release_held()
        self.allowance.add(**counts)
        return answer

    async def refuse(self, answer: Answer, diagnosis: Diagnosis) -> Answer | None:
        """A row the provider will not answer. Equal refusals in a row are held back until it is clear whose fault."""
        if not diagnosis.repeated_means_lane:
            return await self.settle(answer)
        refusal = _DIGITS.sub("0", diagnosis.message)  # counts of tokens differ from row to row
        if refusal != self._refusal:
            await self.release_held()
            self._refusal, self._n_refusals = refusal, 0
        self._n_refusals += 1
        self._held.append(answer)
        if self._n_refusals >= SAME_REFUSALS:
            alias = self.context.alias
            await self.allowance.stop(
                f"models.{alias}: refused {SAME_REFUSALS} requests in a row; mend what it says ({answer.error})"
            )
        return answer

    async def release_held(self) -> None:
        """Settle the refusals held back: they are the rows' fault; or drop them: the lane was stopped for them."""
        held, self._held = self._held, []
        for answer in held:
            lanes_fault = self._n_refusals >= SAME_REFUSALS and not answer.lost_usd
            waited = answer.row_key in self.dropped
            if lanes_fault or await self.settle(answer) is None:
                self.dropped.add(answer.row_key)
            elif waited:
                self.allowance.add(left=-1)

    async def end_block(self) -> None:
        """Settle what is held back, unless nothing shows so far that the model answers at all.

        A small block may be through before SAME_REFUSALS have come: its rows are open then until an answer comes, here and now or
        in another run. Where none ever does, the governor knows what to say of it.
        """
        if self._held and not self._answers and not self.allowance.stopped:
            self._answers = await self.allowance.has_answers()
        if self._answers or self.allowance.stopped:
            await self.release_held()
        elif self._held:
            self.dropped |= {answer.row_key for answer in self._held}
            n, said = len(self._held), self._held[-1].error
            await self.allowance.doubt(
                f"models.{self.context.alias}: refused all of its first {n} requests; mend what it says ({said})"
            )

    async def give_up(self, answer: Answer, unreachable: bool) -> Answer | None:
        """A row out of attempts. Many of them in a row, or an endpoint that cannot be reached at all, stop the lane."""
        self._failed_in_a_row += 1
        if unreachable or self._failed_in_a_row >= FAILED_IN_A_ROW:
            what = "cannot be reached" if unreachable else f"failed {FAILED_IN_A_ROW} rows in a row"
            await self.allowance.stop(f"models.{self.context.alias}: {self.endpoint.url} {what} ({answer.error})")
            if not answer.lost_usd:
                return None
        return await self.settle(answer)
