"""One process's view of a model's endpoint: sends requests, reads the replies, prices them, and settles rows.

`jobs.lanes.openai.exchange` is the way of a single row, `jobs.lanes.openai.refusals` says whose fault it is when one fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from jobs.errors import HeadgateError
from jobs.journal.rows import Answer
from jobs.journal.writer import JournalWriter
from jobs.lanes.base import LaneContext
from jobs.lanes.chat import JsonObject
from jobs.lanes.faults import Diagnosis, diagnose, foreign
from jobs.lanes.openai.booking import Booking
from jobs.lanes.openai.endpoint import Endpoint
from jobs.lanes.openai.refusals import Refusals
from jobs.lanes.openai.slots import Slots
from jobs.lanes.providers.errors import ProviderError, read_error
from jobs.lanes.providers.waits import stated_limits
from jobs.lanes.providers.words import status_of
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


FIRST = 4
"""Requests under way before any has ended."""


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
        self.refusals = Refusals(context.alias, endpoint.url, allowance, self.settle)
        self.replied_at = -1.0
        """When any HTTP reply came last."""
        self._session, self._journal = session, journal
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

    async def send(self, payload: bytes, request: JsonObject, last: bool = False) -> Reply:
        """One HTTP exchange, diagnosed; a second one with another key, unless it is the `last`, where the key has expired."""
        timeout_s, used = self.context.model.retries.timeout_s, self.endpoint.key
        headers = {"Content-Type": "application/json"} | self.endpoint.headers()
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.post(
                    f"{self.endpoint.url}/chat/completions", data=payload, headers=headers, allow_redirects=False
                ) as response,
            ):
                raw = await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Reply(diagnosis=Diagnosis("retry", f"no connection ({type(error).__name__})"), unreachable=True)
        except TimeoutError:
            return Reply(diagnosis=Diagnosis("retry", f"no reply in {timeout_s:g} s"), lost_usd=None)
        except aiohttp.ClientError as error:
            return Reply(diagnosis=Diagnosis("retry", f"connection lost ({type(error).__name__})"), lost_usd=None)
        self.replied_at = time.monotonic()
        self.allowance.state(stated_limits(response.headers))
        unusable = None
        if response.status == 200:
            try:
                completion = parse_completion(raw, request)
                return Reply(completion=self.booking.known(completion, request, response.headers))
            except ReplyError as said:
                unusable = said
        told = read_error(raw) if unusable is None else unusable.error
        if unusable is not None and told is None:
            return await self._without_answer(unusable, request, raw)
        assert told is not None
        status = response.status if unusable is None else status_of(told)
        if not last and await self.endpoint.renewed(status, f"{told.code} {told.message}", used):
            return await self.send(payload, request, last=True)
        found = self._diagnosis(status, response.headers, told, inside=unusable is not None)
        # Charged is what the reply says; who says nothing has refused, or broken down.
        usage = None if unusable is None else unusable.usage
        return Reply(diagnosis=found, lost_usd=self.booking.unusable_usd(usage, request, raw) if usage else 0.0)

    def _diagnosis(self, status: int, headers: Mapping[str, str], error: ProviderError, inside: bool) -> Diagnosis:
        model, alias = self.context.model, self.context.alias
        name, env = model.model or alias, model.api_key_env
        found = diagnose(status, headers, error, alias, name, key_env=env, inside=inside)
        return self.endpoint.named(found, model, alias, status)

    async def _without_answer(self, unusable: ReplyError, request: JsonObject, raw: bytes) -> Reply:
        """A reply with status 200 that holds neither an answer nor an error."""
        if unusable.foreign and not await self.refusals.known_to_answer():
            return Reply(diagnosis=foreign(raw, self.context.alias, self.endpoint.url))
        lost_usd = self.booking.unusable_usd(unusable.usage, request, raw)
        return Reply(diagnosis=Diagnosis("retry", str(unusable)), lost_usd=lost_usd)

    async def settle(self, answer: Answer) -> Answer | None:
        """To the journal, then to the counts. A journal that fails stops the lane; the answer is in its local log."""
        try:
            self._journal.append(answer)
        except HeadgateError as error:
            await self.allowance.stop(str(error))
            return None
        counts = {str(answer.kind): 1}
        if answer.kind == "answered" or answer.is_empty:
            counts |= {"empty": int(answer.is_empty)}
            counts |= {"prompt_tokens": answer.prompt_tokens or 0, "completion_tokens": answer.completion_tokens or 0}
            await self.refusals.answered()
        self.allowance.add(**counts)
        return answer
