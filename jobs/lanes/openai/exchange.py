"""One row's way through an API: reserve its dollars, send it, read the reply, then try again or settle.

Three limits end the tries, each counted for itself:

* replies with status 429: by time (`retries.limited_s`). They also pause all other rows of the model.
* all other faults together: by number (`retries.attempts`).
* of those, the ones that may have been charged (a time-out, a cut connection, a reply without an answer): BILLED_ATTEMPTS.

Waits grow, and are drawn at random up to their limit. A row that waits gives up its place in flight; when it comes back, it is
ahead of rows that have not been sent yet. Whatever happens to a try, what was reserved for it is booked as paid, lost or free.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import replace

from jobs.journal.rows import Answer, Kind
from jobs.lanes.chat import JsonObject, RequestError, answer_key
from jobs.lanes.faults import Diagnosis, clean
from jobs.lanes.openai.asker import Asker, Reply
from jobs.lanes.openai.rows import Row
from jobs.lanes.replies import Completion
from jobs.money.sender import LaneStoppedError, NotAffordableError

BILLED_ATTEMPTS = 5
BACKOFF_S, BACKOFF_LIMIT_S = 0.5, 30.0


class Exchange:
    """The attempts of one row."""

    def __init__(self, asker: Asker, row: Row) -> None:
        self.asker, self.row, self.head = asker, row, row.head
        self.request: JsonObject = {}
        self.payload = b""
        self.attempts = self.unbilled = self.billed = self.n_limited = 0
        self.cost_usd = self.lost_usd = 0.0
        self.latency_s = 0.0
        self.limited_since = 0.0
        self.started_at = time.monotonic()

    async def run(self) -> Answer | None:
        try:
            return await self._to_the_end()
        finally:
            await self.asker.refusals.looked_at()

    async def _to_the_end(self) -> Answer | None:
        while True:
            try:
                reply = await self._attempt()
            except RequestError as wrong:
                return await self.asker.settle(self._unanswered("rejected", clean(str(wrong))))
            if reply is None:
                return await self._leave("stopped before an answer came")
            if reply.completion is not None:
                return await self.asker.settle(self._answer(reply.completion))
            diagnosis = reply.diagnosis
            assert diagnosis is not None
            error = clean(diagnosis.message, self.asker.endpoint.key, self._prompt())
            if diagnosis.kind == "row":
                return await self.asker.refusals.refuse(self._unanswered("rejected", error), diagnosis)
            if diagnosis.kind == "lane":
                await self.asker.allowance.stop(error)
                return await self._leave(error)
            delay_s = await self._limited(diagnosis) if diagnosis.kind == "limited" else self._again(reply, diagnosis)
            if delay_s is None:
                unreachable = reply.unreachable and self.asker.replied_at < self.started_at
                return await self.asker.refusals.give_up(self._unanswered("failed", error), unreachable)
            await self.asker.refusals.looked_at()
            await asyncio.sleep(delay_s)

    async def _attempt(self) -> Reply | None:
        """Reserve, send, book. None where nothing may be sent. Raises RequestError for a row that makes no request."""
        asker, allowance = self.asker, self.asker.allowance
        async with asker.slots.hold(first=self.attempts > 0), asker.opening():
            if allowance.stopped:
                return None
            if not self.payload:
                self._make_request()
            try:
                reserved = await asker.booking.reserve(self.request, len(self.payload))
            except (LaneStoppedError, NotAffordableError):
                return None
            if not await asker.refusals.may_send():
                asker.booking.book_loss(reserved, 0.0)
                return None
            self.attempts += 1
            allowance.add(requests=1)
            begun = time.monotonic()
            try:
                with asker.refusals.sending():
                    reply = await asker.send(self.payload, self.request)
            except BaseException:
                asker.booking.book_loss(reserved, None)
                raise
            self.latency_s = time.monotonic() - begun
            if reply.completion is not None:
                self.cost_usd = asker.booking.book_answer(reserved, reply.completion)
            else:
                self.lost_usd += asker.booking.book_loss(reserved, reply.lost_usd)
            return reply

    def _make_request(self) -> None:
        try:
            self.request = self.row.request(self.asker.context)
        except RequestError:
            raise
        except (ValueError, RecursionError):
            raise RequestError("messages or body is not valid JSON") from None
        if self.asker.context.logprobs:
            self.request.setdefault("logprobs", True)
        self.head = replace(self.row.head, answer_key=answer_key(self.request))
        self.payload = json.dumps(self.request, separators=(",", ":")).encode("ascii")
        self.started_at = time.monotonic()

    async def _limited(self, diagnosis: Diagnosis) -> float | None:
        """A 429: pause the model for as long as the reply says, and the row, where it says nothing, longer each time.

        Seconds to wait; None when the row has waited long enough.
        """
        now = time.monotonic()
        self.n_limited += 1
        self.limited_since = self.limited_since or now
        pause_s = diagnosis.retry_after_s
        if pause_s is None:
            pause_s = backoff_s(self.n_limited)
        self.asker.allowance.add(limited=1)
        if now - self.limited_since + pause_s > self.asker.context.model.retries.limited_s:
            return None
        await self.asker.allowance.limited(diagnosis.retry_after_s)
        return pause_s + random.uniform(0, min(1.0, 0.1 + pause_s / 4))

    def _again(self, reply: Reply, diagnosis: Diagnosis) -> float | None:
        """Seconds until the next attempt; None where there is none left."""
        retries = self.asker.context.model.retries
        if reply.lost_usd == 0:
            self.unbilled += 1
        else:
            self.billed += 1
        if self.unbilled + self.billed >= retries.attempts or self.billed >= BILLED_ATTEMPTS:
            return None
        return max(backoff_s(self.unbilled + self.billed), diagnosis.retry_after_s or 0.0)

    async def _leave(self, error: str) -> Answer | None:
        """The row stays open; what it lost is kept."""
        if self.lost_usd:
            return await self.asker.settle(self._unanswered("failed", error))
        return None

    def _answer(self, completion: Completion) -> Answer:
        return self.head.answered(
            completion,
            cost_usd=self.cost_usd,
            latency_s=self.latency_s,
            attempts=self.attempts,
            lost_usd=self.lost_usd,
        )

    def _unanswered(self, kind: Kind, error: str) -> Answer:
        return self.head.unanswered(
            kind, error, attempts=self.attempts, latency_s=self.latency_s, lost_usd=self.lost_usd
        )

    def _prompt(self) -> str:
        """All texts of the row, to take them out of messages."""
        contents = (message.get("content") for message in self.request["messages"])
        return "\n".join(content if isinstance(content, str) else json.dumps(content) for content in contents)


def backoff_s(n: int) -> float:
    """Full jitter: between 0 and a limit that doubles with every attempt (n from 1)."""
    return random.uniform(0, min(BACKOFF_LIMIT_S, BACKOFF_S * 2.0**n))
