"""The sending side of the governor: dollars, rates and stops for the requests of one actor, without a call per request.

`take` waits, first come first served, until the request's worst-case dollars are reserved and its rate is admitted;
`settle` frees the reservation and books what was paid. Dollars come from the governor in chunks: what the waiting
requests need, and a slack of `SLACK` of what is in flight, fetched before it runs out, so that nobody waits for the
ledger. Once a second a report tells totals, and learns of stops and pauses. Lives on one event loop; no locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

from jobs.errors import HeadgateError
from jobs.journal.refused import Refused
from jobs.money.client import GovernorClient
from jobs.money.excess import Excess
from jobs.money.messages import Ask, Permit, Report, Terms
from jobs.money.rate_limiter import PAUSE_WITHOUT_HEADER_S
from jobs.spec.models import Limits

SLACK = 0.25
REPORT_S = 1.0
HEADS = 256
"""Waiting requests that one permit is asked for."""
RATE_POLL_S = 0.05
"""Shortest wait between two permits for rates: tens of requests a permit at 1,000 a second."""
STALE_S = 1.0
"""Admissions not used within this are dropped, or they would go out as a burst later."""
_EPSILON = 1e-12
T = TypeVar("T")


class LaneStoppedError(Exception):
    """Nobody may send any more."""


class NotAffordableError(Exception):
    """The dollars for this request will not be had in this session."""


@dataclass(slots=True)
class _Waiter:
    usd: float
    tokens: float
    granted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


def _fail(waiter: _Waiter, error: Exception) -> None:
    if not waiter.granted.done():
        waiter.granted.set_exception(error)


class Allowance:
    """What one actor may send. Make it and use it on one event loop; `start` before the first `take`."""

    def __init__(self, governor: GovernorClient, alias: str, actor_id: str, limits: Limits) -> None:
        self._governor, self._alias, self._actor_id = governor, alias, actor_id
        self._rated = limits.requests_per_minute is not None or limits.tokens_per_minute is not None
        self.counts = Report()
        """Totals that the lane adds to; dollars are kept here."""
        self.stopped = ""
        """Why the lane is stopped; "" while it is not."""
        self._free_usd = self._reserved_usd = 0.0
        self._cost_usd = self._lost_usd = self._returned_usd = 0.0
        self._ceiling_usd = float("inf")
        self._admitted = 0
        self._admitted_at = 0.0
        self._corrected_tokens = 0.0
        self._stated: tuple[float | None, float | None] = (None, None)
        self._news: tuple[float | None, float | None] = (None, None)
        self._paused_until = 0.0
        self._queue: deque[_Waiter] = deque()
        self._changed = asyncio.Event()
        self._tight = False
        self.terms = Terms()
        """What reservations reckon with, as far as is known here: the governor's own after the first permit."""
        self.on_learnt: Callable[[], None] = lambda: None
        """Called when `terms.excess` has grown."""
        self._told_excess = Excess()
        """What the governor knows of it."""
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        forever = (self._serve(), self._report_forever(), self._hear_forever())
        self._tasks = [asyncio.create_task(each) for each in forever]

    def add(self, **counts: float) -> None:
        """Add to the totals of the report."""
        self.counts = replace(self.counts, **{name: getattr(self.counts, name) + n for name, n in counts.items()})

    async def take(self, usd: float, tokens: float) -> None:
        """Reserve `usd` and be admitted. Raises LaneStoppedError or NotAffordableError; nothing is reserved then."""
        if self.stopped:
            raise LaneStoppedError
        if usd > self._ceiling_usd:
            raise NotAffordableError
        waiter = _Waiter(usd, tokens)
        if not self._queue and self._fits(waiter):
            self._reserve(waiter)
            return
        self._queue.append(waiter)
        self._changed.set()
        try:
            await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled() and waiter.granted.exception() is None:
                self.settle(usd, 0.0, 0.0)
            elif waiter in self._queue:
                self._queue.remove(waiter)
            raise

    def settle(self, reserved_usd: float, cost_usd: float, lost_usd: float, more_tokens: float = 0.0) -> None:
        """A request is over: paid `cost_usd`, or lost `lost_usd`, and `more_tokens` than estimated."""
        self._reserved_usd = max(0.0, self._reserved_usd - reserved_usd)
        self._free_usd += reserved_usd - cost_usd - lost_usd
        self._cost_usd += cost_usd
        self._lost_usd += lost_usd
        self._corrected_tokens += more_tokens
        self.counts = replace(self.counts, in_flight=self.counts.in_flight - 1)
        if self._queue or self._low():
            self._changed.set()

    def learn(self, excess: Excess) -> None:
        """A reply went this far beyond what was reserved: it holds for all later reservations here at once, and for those of the
        model's other senders as soon as they hear of it."""
        self._reckon(replace(self.terms, excess=excess))
        if self.terms.excess != self._told_excess:
            self._changed.set()

    def hold(self, more_usd: float) -> None:
        """What is under way may cost this much more than was reserved: it is taken from what comes next."""
        self._free_usd -= more_usd
        self._reserved_usd += more_usd
        if self._queue or self._low():
            self._changed.set()

    def state(self, limits: tuple[float | None, float | None]) -> None:
        """What the provider says it allows: (requests, tokens) a minute. The governor hears of it when it is news."""
        if limits != self._stated and any(limits):
            self._stated = self._news = limits
            self._rated = True

    async def limited(self, retry_after_s: float | None) -> None:
        """A 429: this actor waits at once, the others as soon as they hear of it. None: the reply did not say how long."""
        pause_s = PAUSE_WITHOUT_HEADER_S if retry_after_s is None else retry_after_s
        self._paused_until = max(self._paused_until, time.monotonic() + pause_s)
        await self._call(self._governor.limited(self._alias, retry_after_s))

    async def stop(self, reason: str) -> None:
        """The lane cannot go on: tell everybody. What is in flight may settle."""
        if not self.stopped:
            self._halt(reason)
            await self._call(self._governor.stop(self._alias, reason))

    async def has_answers(self) -> bool:
        """Whether the model has answered anything in this job, whoever asked."""
        return bool(await self._call(self._governor.has_answers(self._alias)))

    async def doubt(self, refused: Sequence[Refused]) -> None:
        """Rows that were refused while nothing was answered: theirs or the lane's fault, which shows at the end."""
        await self._call(self._governor.doubt(self._alias, refused))

    async def settle_up(self) -> None:
        """Nothing is in flight or waiting: give back all dollars, tell the totals."""
        if not self._queue and not self.counts.in_flight:
            self._give_back()
        await self._ask(Ask())

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    # ----------------------------------------------------------------------------------------------------------------

    def _fits(self, waiter: _Waiter) -> bool:
        if time.monotonic() < self._paused_until or waiter.usd > max(0.0, self._free_usd) + _EPSILON:
            return False
        if not self._rated:
            return True
        if self._admitted and time.monotonic() - self._admitted_at > STALE_S:
            self._admitted = 0
        return self._admitted > 0

    def _reserve(self, waiter: _Waiter) -> None:
        self._free_usd -= waiter.usd
        self._reserved_usd += waiter.usd
        self._admitted -= 1 if self._rated else 0
        self.counts = replace(self.counts, in_flight=self.counts.in_flight + 1)

    def _low(self) -> bool:
        """Time to fetch slack: half of it is gone."""
        return not self._tight and self._reserved_usd > 0 and self._free_usd < SLACK / 2 * self._reserved_usd

    def _give_back(self) -> None:
        self._returned_usd += max(0.0, self._free_usd)
        self._free_usd = min(0.0, self._free_usd)

    def _halt(self, reason: str) -> None:
        self.stopped = self.stopped or reason
        while self._queue:
            _fail(self._queue.popleft(), LaneStoppedError())

    async def _serve(self) -> None:
        """Hand out what there is, and fetch more, until the lane stops."""
        while not self.stopped:
            self._changed.clear()
            if self.terms.excess != self._told_excess:
                await self._tell_excess()
                continue
            while self._queue and (self._queue[0].granted.cancelled() or self._fits(self._queue[0])):
                waiter = self._queue.popleft()
                if not waiter.granted.done():
                    self._reserve(waiter)
                    waiter.granted.set_result(None)
            if self._queue:
                await self._fetch()
            elif self._low():
                await self._ask(Ask(want_usd=SLACK * self._reserved_usd - self._free_usd, free_usd=self._free_usd))
                await asyncio.sleep(RATE_POLL_S)
            else:
                await self._changed.wait()

    async def _tell_excess(self) -> None:
        excess = self.terms.excess
        terms = await self._call(self._governor.learn(self._alias, excess))
        if terms is not None:
            self._told_excess = terms.excess
            self._reckon(terms)

    async def _hear_forever(self) -> None:
        """What the model's other senders learn, as soon as they do."""
        while not self.stopped:
            terms = await self._call(self._governor.more_learnt(self._alias, self.terms.excess))
            if terms is None:
                return
            self._reckon(terms)

    def _reckon(self, terms: Terms) -> None:
        known = self.terms.excess
        self.terms = replace(terms, excess=known | terms.excess)
        if self.terms.excess != known:
            self.on_learnt()

    async def _fetch(self) -> None:
        """One permit for the head of the queue, and the wait until another makes sense."""
        paused_s = self._paused_until - time.monotonic()
        if paused_s > 0:
            await asyncio.sleep(paused_s)
            return
        heads = list(islice(self._queue, HEADS))
        need_usd = max(0.0, heads[0].usd - max(0.0, self._free_usd)) if heads[0].usd else 0.0
        if need_usd:
            need_usd = heads[0].usd - self._free_usd  # a debt is paid first
        wanted_usd = sum(waiter.usd for waiter in heads)
        slack_usd = 0.0 if self._tight else SLACK * (self._reserved_usd + wanted_usd)
        want_usd = max(0.0, wanted_usd + slack_usd - self._free_usd) if need_usd else 0.0
        permit = await self._ask(
            Ask(
                tokens=[waiter.tokens for waiter in heads] if self._rated else (),
                need_usd=need_usd,
                want_usd=want_usd,
                free_usd=max(0.0, self._free_usd),
            ),
            keep_free=True,
        )
        if permit is None:
            return
        if permit.exhausted and self._queue and self._queue[0] is heads[0]:
            # Dollars only get fewer: what is dearer than this need not ask again.
            self._ceiling_usd = min(self._ceiling_usd, heads[0].usd - _EPSILON)
            for waiter in [waiter for waiter in self._queue if waiter.usd > self._ceiling_usd]:
                self._queue.remove(waiter)
                _fail(waiter, NotAffordableError())
            return
        if need_usd > permit.usd:
            if not self.counts.in_flight:
                # Two senders that each hold what the other lacks would wait for ever.
                self._give_back()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), REPORT_S / 4)
        elif self._rated and not permit.requests:
            await asyncio.sleep(max(RATE_POLL_S, permit.wait_s))

    async def _report_forever(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            await self._ask(Ask())

    async def _ask(self, ask: Ask, keep_free: bool = False) -> Permit | None:
        """Tell, ask, and take in what came. None where the lane is stopped."""
        if self._tight and not keep_free and not self._queue:
            self._give_back()
        tokens, self._corrected_tokens = self._corrected_tokens, 0.0
        report = replace(self.counts, cost_usd=self._cost_usd, lost_usd=self._lost_usd, returned_usd=self._returned_usd)
        ask = replace(ask, corrected_tokens=tokens, stated_limits=self._news)
        self._news = (None, None)
        permit = await self._call(self._governor.permit(self._alias, self._actor_id, ask, report))
        if permit is None:
            return None
        self._free_usd += permit.usd
        self._tight = permit.tight
        self._rated |= permit.rated
        if permit.requests:
            self._admitted += permit.requests
            self._admitted_at = time.monotonic()
        if permit.paused_s:
            self._paused_until = max(self._paused_until, time.monotonic() + permit.paused_s)
        if permit.stopped:
            self._halt(permit.stopped)
            return None
        self._told_excess = permit.terms.excess
        self._reckon(permit.terms)
        if permit.usd or permit.requests:
            self._changed.set()
        return permit

    async def _call(self, call: Awaitable[T]) -> T | None:
        """One call to the governor; without it, or where it cannot write its ledger, nobody sends."""
        try:
            return await call
        except HeadgateError as error:
            self._halt(str(error))
            return None
