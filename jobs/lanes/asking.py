"""One row's way through an API: reserve, send, judge the reply, try again or settle. Every path books its dollars.

Three limits, kept apart: 429 replies are limited by time (`retries.limited_s`) and pause the whole model; all other
faults by `retries.attempts`; and of those the ones that may have been charged (time-out, cut connection, a reply
without an answer) by BILLED_ATTEMPTS. Waits grow with full jitter. A request that waits gives up its place in flight
and is first in line when it comes back.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pyarrow as pa

from jobs.allowance import Allowance, LaneStoppedError, NotAffordableError
from jobs.errors import HeadgateError
from jobs.journal import Answer, JournalWriter, Kind
from jobs.lanes.base import LaneContext
from jobs.replies import Verdict, clean, judge, read_error
from jobs.requests import (
    Completion,
    ReplyError,
    RequestError,
    answer_key,
    build_request,
    max_completion_tokens,
    parse_completion,
    request_tokens_bound,
)
from routing.pricing import tokens_cost_usd

BILLED_ATTEMPTS = 5
BACKOFF_S, BACKOFF_LIMIT_S = 0.5, 30.0
SAME_REFUSALS = 20
"""Equal 400 or 422 replies in a row that mean the form of the requests is wrong, not the rows."""
FAILED_IN_A_ROW = 20
"""Rows given up one after the other, none answered between, that mean the endpoint is not working."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a block with ASK_COLUMNS. Its texts stay in the block until they are sent: many rows wait."""

    block: pa.Table
    place: int
    row_key: int
    bucket: int
    sample: bool

    def request(self, context: LaneContext) -> dict[str, Any]:
        """The body to send. Raises ValueError where the row makes none."""
        messages, body = (self.block[name][self.place].as_py() for name in ("messages", "body"))
        return build_request(
            context.model,
            context.alias,
            context.sampling,
            context.response_format,
            json.loads(messages),
            json.loads(body) if body else None,
        )


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go. The key is not shown."""

    url: str
    """Base URL, without a slash at its end."""
    key: str

    def __repr__(self) -> str:
        return f"Endpoint(url={self.url!r}, key={'set' if self.key else 'none'})"


@dataclass(frozen=True, slots=True)
class _Reply:
    """What one attempt came to: exactly one of completion and verdict."""

    completion: Completion | None = None
    verdict: Verdict | None = None
    lost_usd: float | None = 0.0
    """Of an attempt that brought nothing; None: its worst case. Above 0 or None: it may have been charged."""
    unreachable: bool = False
    """No connection came about."""


class Slots:
    """`n` places in flight. First come first served, but who comes back is before who is new."""

    def __init__(self, n: int) -> None:
        self._free = n
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def hold(self, first: bool = False) -> AsyncIterator[None]:
        if self._free and not self._waiting:
            self._free -= 1
        else:
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            (self._waiting.appendleft if first else self._waiting.append)(place)
            try:
                await place
            except asyncio.CancelledError:
                if place.done() and not place.cancelled():
                    self._release()
                raise
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1


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
        self.dropped: set[int] = set()
        """Keys of rows that `ask` gave an answer for and that stay open all the same: see `release_held`."""
        self.extra_tokens = 0
        """Most prompt tokens an answer had beyond its bound (a server's own chat template): added to later bounds."""
        self.replied_at = -1.0
        """When any HTTP reply came last."""
        self._session, self._journal = session, journal
        self._completion_tokens = float(context.sampling.get("max_completion_tokens") or context.sampling["max_tokens"])
        self._tokens_per_byte = 1 / 3
        self._failed_in_a_row = 0
        self._refusal, self._n_refusals = "", 0
        self._held: list[Answer] = []

    async def ask(self, row: Row) -> Answer | None:
        """Settle one row. None where it stays open and cost nothing: lane stopped, or no dollars left for it."""
        return await _Exchange(self, row).run()

    async def send(self, payload: bytes, request: dict[str, Any]) -> _Reply:
        """One HTTP exchange, judged."""
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
            return _Reply(verdict=Verdict("retry", f"no connection ({type(error).__name__})"), unreachable=True)
        except TimeoutError:
            return _Reply(verdict=Verdict("retry", f"no reply in {model.retries.timeout_s:g} s"), lost_usd=None)
        except aiohttp.ClientError as error:
            return _Reply(verdict=Verdict("retry", f"connection lost ({type(error).__name__})"), lost_usd=None)
        self.replied_at = time.monotonic()
        if response.status != 200:
            name = model.model or self.context.alias
            said, alias = read_error(raw), self.context.alias
            return _Reply(verdict=judge(response.status, response.headers, said, alias, name, model.api_key_env))
        try:
            return _Reply(completion=parse_completion(raw, request))
        except ReplyError as unusable:
            usage = unusable.usage
            if usage is not None:
                lost = self.price(usage.prompt_tokens, usage.completion_tokens)
            else:  # no more tokens than bytes came
                lost = self.price(self.bound(request), min(max_completion_tokens(request), len(raw)))
            return _Reply(verdict=Verdict("retry", str(unusable)), lost_usd=lost)

    def price(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int | None = None) -> float:
        return tokens_cost_usd(self.context.price, prompt_tokens, completion_tokens, cached_tokens or 0)

    def bound(self, request: dict[str, Any]) -> int:
        """Most prompt tokens of a request."""
        return request_tokens_bound(request) + self.extra_tokens

    def expected_tokens(self, n_bytes: int) -> float:
        """Prompt and completion tokens of a request of so many bytes, for the rate limit: moving averages."""
        return n_bytes * self._tokens_per_byte + self._completion_tokens

    def learn(self, n_bytes: int, bound: int, completion: Completion) -> None:
        """Better estimates from an answer."""
        usage = completion.usage
        self.extra_tokens = max(self.extra_tokens, usage.prompt_tokens - bound + self.extra_tokens)
        self._completion_tokens += 0.02 * (usage.completion_tokens - self._completion_tokens)
        self._tokens_per_byte += 0.02 * (usage.prompt_tokens / max(1, n_bytes) - self._tokens_per_byte)

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
            await self.release_held()
        self.allowance.add(**counts)
        return answer

    async def refuse(self, answer: Answer, verdict: Verdict) -> Answer | None:
        """A row the provider will not answer. Equal refusals in a row are held back until it is clear whose fault."""
        if not verdict.repeated_means_lane:
            return await self.settle(answer)
        if verdict.message != self._refusal:
            await self.release_held()
            self._refusal, self._n_refusals = verdict.message, 0
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
            if lanes_fault or await self.settle(answer) is None:
                self.dropped.add(answer.row_key)

    async def give_up(self, answer: Answer, unreachable: bool) -> Answer | None:
        """A row out of attempts. Many of them in a row, or an endpoint that cannot be reached at all, stop the lane."""
        self._failed_in_a_row += 1
        if unreachable or self._failed_in_a_row >= FAILED_IN_A_ROW:
            what = "cannot be reached" if unreachable else f"failed {FAILED_IN_A_ROW} rows in a row"
            await self.allowance.stop(f"models.{self.context.alias}: {self.endpoint.url} {what} ({answer.error})")
            if not answer.lost_usd:
                return None
        return await self.settle(answer)


class _Exchange:
    """The attempts of one row."""

    def __init__(self, asker: Asker, row: Row) -> None:
        self.asker, self.row = asker, row
        self.request: dict[str, Any] = {}
        self.payload = b""
        self.attempts = self.unbilled = self.billed = self.n_limited = 0
        self.lost_usd = 0.0
        self.latency_s = 0.0
        self.limited_since = 0.0
        self.started_at = time.monotonic()

    async def run(self) -> Answer | None:
        while True:
            try:
                reply = await self._attempt()
            except RequestError as error:
                return await self.asker.settle(self._unanswered("rejected", clean(str(error))))
            if reply is None:
                return await self._leave("stopped before an answer came")
            if reply.completion is not None:
                return await self.asker.settle(self._answer(reply.completion))
            verdict = reply.verdict
            assert verdict is not None
            error = clean(verdict.message, self.asker.endpoint.key, self._prompt())
            if verdict.kind == "row":
                return await self.asker.refuse(self._unanswered("rejected", error), verdict)
            if verdict.kind == "lane":
                await self.asker.allowance.stop(error)
                return await self._leave(error)
            delay_s = await self._limited(verdict) if verdict.kind == "limited" else self._again(reply, verdict)
            if delay_s is None:
                unreachable = reply.unreachable and self.asker.replied_at < self.started_at
                return await self.asker.give_up(self._unanswered("failed", error), unreachable)
            await asyncio.sleep(delay_s)

    async def _attempt(self) -> _Reply | None:
        """Reserve, send, book. None where nothing may be sent. Raises RequestError for a row that makes no request."""
        asker, allowance = self.asker, self.asker.allowance
        async with asker.slots.hold(first=self.attempts > 0):
            if allowance.stopped:
                return None
            if not self.payload:
                self._make_request()
            bound = asker.bound(self.request)
            worst_usd = asker.price(bound, max_completion_tokens(self.request))
            tokens = asker.expected_tokens(len(self.payload))
            try:
                await allowance.take(worst_usd, tokens)
            except (LaneStoppedError, NotAffordableError):
                return None
            self.attempts += 1
            allowance.add(requests=1)
            begun = time.monotonic()
            try:
                reply = await asker.send(self.payload, self.request)
            except BaseException:
                allowance.settle(worst_usd, 0.0, worst_usd)
                raise
            self.latency_s = time.monotonic() - begun
            if reply.completion is not None:
                usage = reply.completion.usage
                self.cost_usd = asker.price(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
                used = usage.prompt_tokens + usage.completion_tokens
                allowance.settle(worst_usd, self.cost_usd, 0.0, used - tokens)
                asker.learn(len(self.payload), bound, reply.completion)
            else:
                lost_usd = worst_usd if reply.lost_usd is None else reply.lost_usd
                self.lost_usd += lost_usd
                allowance.settle(worst_usd, 0.0, lost_usd, 0.0 if reply.lost_usd is None else -tokens)
            return reply

    def _make_request(self) -> None:
        try:
            self.request = self.row.request(self.asker.context)
        except RequestError:
            raise
        except (ValueError, RecursionError):
            raise RequestError("messages or body is not valid JSON") from None
        self.payload = json.dumps(self.request, separators=(",", ":")).encode("ascii")
        self.started_at = time.monotonic()

    async def _limited(self, verdict: Verdict) -> float | None:
        """A 429: pause the model. Seconds to wait; None when the row has waited long enough."""
        now = time.monotonic()
        self.n_limited += 1
        self.limited_since = self.limited_since or now
        pause_s = verdict.retry_after_s
        if pause_s is None:
            pause_s = _backoff_s(self.n_limited)
        self.asker.allowance.add(limited=1)
        if now - self.limited_since + pause_s > self.asker.context.model.retries.limited_s:
            return None
        await self.asker.allowance.limited(pause_s)
        return pause_s + random.uniform(0, min(1.0, 0.1 + pause_s / 4))

    def _again(self, reply: _Reply, verdict: Verdict) -> float | None:
        """Seconds until the next attempt; None where there is none left."""
        retries = self.asker.context.model.retries
        if reply.lost_usd == 0:
            self.unbilled += 1
        else:
            self.billed += 1
        if self.unbilled + self.billed >= retries.attempts or self.billed >= BILLED_ATTEMPTS:
            return None
        return max(_backoff_s(self.unbilled + self.billed), verdict.retry_after_s or 0.0)

    async def _leave(self, error: str) -> Answer | None:
        """The row stays open; what it lost is kept."""
        if self.lost_usd:
            return await self.asker.settle(self._unanswered("failed", error))
        return None

    def _answer(self, completion: Completion) -> Answer:
        usage = completion.usage
        return Answer(
            self.row.row_key,
            self.row.bucket,
            "answered",
            answer_key(self.request),
            generated_text=completion.text,
            finish_reason=completion.finish_reason,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            token_source=usage.source,
            cost_usd=self.cost_usd,
            lost_usd=self.lost_usd,
            latency_s=self.latency_s,
            attempts=self.attempts,
            purpose="shadow" if self.row.sample else "answer",
        )

    def _unanswered(self, kind: Kind, error: str) -> Answer:
        return Answer(
            self.row.row_key,
            self.row.bucket,
            kind,
            answer_key(self.request) if self.request else bytes(16),
            token_source="bound" if self.lost_usd else "",
            lost_usd=self.lost_usd,
            latency_s=self.latency_s,
            attempts=self.attempts,
            error=error,
            purpose="shadow" if self.row.sample else "answer",
        )

    def _prompt(self) -> str:
        """All texts of the row, to take them out of messages."""
        contents = (message.get("content") for message in self.request["messages"])
        return "\n".join(content if isinstance(content, str) else json.dumps(content) for content in contents)


def _backoff_s(n: int) -> float:
    """Full jitter: between 0 and a limit that doubles with every attempt (n from 1)."""
    return random.uniform(0, min(BACKOFF_LIMIT_S, BACKOFF_S * 2.0**n))
