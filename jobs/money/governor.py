"""The governor: one actor per run that every sender asks before it sends, and that counts what all of them do.

It owns a `Budget` (dollars), a `RateLimiter` per model, and the `Claims` on rows, and it can stop a lane. Lanes and the driver
reach it through `jobs.money.client`, and never by more than tens of calls a second: a sender asks for a permit when its dollars or
admissions run out, and reports its totals once a second. All methods are asynchronous; what touches the store runs in threads.
When the governor is gone, senders stop: nobody would count the dollars.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from jobs.journal.local_log import local_dir
from jobs.journal.reader import Journal
from jobs.journal.recovery import recover_sender
from jobs.journal.refused import Refused, entries_of, fault_of
from jobs.journal.rows import Answer
from jobs.journal.writer import Sender
from jobs.money.budget import Budget
from jobs.money.claims import Claims, Keys
from jobs.money.excess import Excess, read_excess, write_excess
from jobs.money.keys import MIN_AGE_S, Command, Key, KeyKeeper
from jobs.money.messages import Ask, GovernorState, ModelState, Permit, Report, StopKind, Terms
from jobs.money.rate_limiter import RateLimiter
from jobs.money.reservations import Reservations, Taken
from jobs.spec.models import Limits
from jobs.storage.store import Store

RATE_WINDOW_S = 30.0
CLOSED = "the run has ended; run the same command again"
"""What a sender is told that asks after `close`."""


@dataclass
class _Lane:
    """What the governor knows of one model."""

    limiter: RateLimiter
    claims: Claims = field(default_factory=Claims)
    reports: dict[str, Report] = field(default_factory=dict)
    stopped: str = ""
    stop_kind: StopKind = ""
    short_of_money: bool = False
    has_answered: bool = False
    """In an earlier session, as far as dollars tell."""
    answered_before: bool | None = None
    """In an earlier session, by its journal; None: nobody has looked."""
    refused: list[Refused] = field(default_factory=list)
    """Rows that wait for a word on whose fault it is: nothing was answered when they were refused."""
    key_trouble: str = ""
    gone_batches: int = 0
    gone_usd: float = 0.0
    """Batches that the provider knows no more, and the dollars that count as lost with them."""
    history: deque[tuple[float, int]] = field(default_factory=deque)
    excess: Excess = field(default_factory=Excess)
    learning: asyncio.Condition = field(default_factory=asyncio.Condition)
    """Around the writing down of `excess`, so that the last one stands; told when there is more of it."""


class GovernorService:
    """The governor itself, without Ray around it."""

    def __init__(
        self,
        output_uri: str,
        session: str,
        cap_usd: float | None,
        limits: Mapping[str, Limits],
        local_logs: str | None = None,
    ) -> None:
        """`limits`: of every model of the run. `local_logs`: the folder of senders' local logs, where it is not the usual one.

        Reads what the run has spent so far, so orphaned logs should be recovered before. Raises StoreError.
        """
        self._uri, self._session = output_uri, session
        self._local_dir = local_logs or local_dir(output_uri)
        self._store = Store(output_uri)
        self._journal = Journal(self._store)
        self._lanes = {
            alias: _Lane(RateLimiter(limit.requests_per_minute, limit.tokens_per_minute))
            for alias, limit in limits.items()
        }
        journaled = {alias: self._journal.spent(alias) for alias in limits}
        for alias, spent in journaled.items():
            self._lanes[alias].has_answered = spent.cost_usd > 0
            self._lanes[alias].excess = read_excess(self._store, alias)
        self._budget = Budget.resume(self._store, session, cap_usd, journaled)
        self._reservations = Reservations(self._budget, self._store, self._journal)
        self._money = asyncio.Lock()
        self._closed = False
        """The ledger says what was kept: dollars granted from here on would be in nobody's count."""
        self._recovering: dict[str, asyncio.Lock] = {}
        self._keys, self._key_locks = KeyKeeper(), defaultdict[Command, asyncio.Lock](asyncio.Lock)

    # Rows -----------------------------------------------------------------------------------------------------------

    async def begin(self, alias: str, actor_id: str, node_id: str, pid: int, keys: Keys) -> Keys:
        """Claim the rows of one block. Gives the keys that must not be asked (a subset of `keys`).

        actor_id: JournalWriter.unique of the calling life of the actor. See jobs.money.claims.
        """
        lane = self._lanes[alias]
        keys = np.asarray(keys, np.int64)
        for sender in lane.claims.conflicts(keys, actor_id):
            await self._take_over(alias, sender)
        skip = lane.claims.finished.contains(keys) | lane.claims.held(keys)
        lane.claims.claim(Sender(actor_id, node_id, pid), keys[~skip])
        return keys[skip]

    async def finish(self, alias: str, actor_id: str, keys: Keys, settled: Keys | None = None) -> None:
        """The block with `keys` is through; `settled` of them (None: all) are settled and committed to the store."""
        settled = None if settled is None else np.asarray(settled, np.int64)
        self._lanes[alias].claims.finish(actor_id, np.asarray(keys, np.int64), settled)

    async def _take_over(self, alias: str, sender: Sender) -> None:
        """Recover a dead sender's logs on its node; leave its claims alone where it may be alive."""
        lane = self._lanes[alias]
        async with self._recovering.setdefault(sender.unique, asyncio.Lock()):
            if not any(claim.sender.unique == sender.unique for claim in lane.claims.open):
                return  # done by a call that was quicker
            if not await recover_sender(self._uri, alias, self._local_dir, self._session, sender):
                return
            # By writer alone: the writers of batches have sessions of their own.
            settled = await asyncio.to_thread(self._journal.settled, alias, "", sender.unique)
            spent = await asyncio.to_thread(self._journal.spent, alias, "", sender.unique)
            async with self._money:
                self._budget.bury(sender.unique, spent.cost_usd, spent.lost_usd)
            lane.claims.bury(sender.unique, settled)

    # Keys -----------------------------------------------------------------------------------------------------------

    async def know_key(self, command: Command, key: Key) -> None:
        """What the driver's run of the command has brought."""
        self._keys.take(command, key)

    async def key(self, alias: str, command: Command, refused: str) -> Key:
        """The key that the command prints, a newer one than the one `refused` ("" for a sender that begins). See money.keys."""
        asked = time.monotonic()
        async with self._key_locks[command]:
            held = self._keys.held(command)
            fresh = held is not None and held.age_s <= time.monotonic() - asked
            if held is not None and (fresh or held.value != refused) and (refused or fresh or held.age_s < MIN_AGE_S):
                return held
            if held is not None:
                await asyncio.sleep(max(0.0, MIN_AGE_S - held.age_s))
            got = await asyncio.to_thread(self._keys.run, command)
        self._lanes[alias].key_trouble = got.trouble
        return got

    # Dollars and rates ----------------------------------------------------------------------------------------------

    async def permit(self, alias: str, actor_id: str, ask: Ask, report: Report) -> Permit:
        """One sender's report, and what it may do next. Raises StoreError where the ledger cannot be written."""
        lane = self._lanes[alias]
        self._note(lane, actor_id, report)
        lane.limiter.correct(ask.corrected_tokens)
        if any(ask.stated_limits):
            lane.limiter.state(*ask.stated_limits)
        async with self._money:
            self._budget.settle(actor_id, report.cost_usd, report.lost_usd)
            self._budget.give_back(actor_id, report.returned_usd)
            grant = None
            stopped = lane.stopped or (CLOSED if self._closed else "")
            if (ask.need_usd > 0 or ask.want_usd > 0) and not stopped:
                grant = await asyncio.to_thread(
                    self._budget.grant, alias, actor_id, ask.need_usd, ask.want_usd, ask.free_usd
                )
            tight = self._budget.tight(alias)
        if stopped := stopped or lane.stopped:
            return Permit(stopped=stopped, tight=True)
        lane.short_of_money |= grant is not None and grant.exhausted
        # Requests are not admitted while their dollars are missing: the place would go to waste.
        broke = grant is not None and grant.usd < ask.need_usd
        admission = lane.limiter.admit(() if broke else ask.tokens)
        return Permit(
            requests=admission.requests,
            usd=grant.usd if grant else 0.0,
            wait_s=admission.wait_s,
            exhausted=grant is not None and grant.exhausted,
            tight=tight,
            rated=lane.limiter.rated,
            paused_s=lane.limiter.paused_s,
            terms=self._terms(lane),
        )

    async def learn(self, alias: str, excess: Excess) -> Terms:
        """A reply went beyond what was reserved for it, or a sender asks what is known: what its reservations reckon with now.

        Durable when this returns. Raises StoreError.
        """
        lane = self._lanes[alias]
        known, lane.excess = lane.excess, lane.excess | excess
        if lane.excess != known:
            async with lane.learning:
                lane.learning.notify_all()
                await asyncio.to_thread(write_excess, self._store, alias, lane.excess)
        return self._terms(lane)

    async def more_learnt(self, alias: str, known: Excess) -> Terms:
        """Returns once a sender has learnt what is not in `known`."""
        lane = self._lanes[alias]
        async with lane.learning:
            await lane.learning.wait_for(lambda: lane.excess | known != known)
        return self._terms(lane)

    def _terms(self, lane: _Lane) -> Terms:
        return Terms(lane.excess, self._budget.cap_usd is not None)

    async def report(self, alias: str, actor_id: str, report: Report) -> str:
        """For lanes without dollars or rates. Gives why the lane is stopped, or ""."""
        self._note(self._lanes[alias], actor_id, report)
        return self._lanes[alias].stopped

    async def has_answers(self, alias: str) -> bool:
        """Whether the model has answered anything in this job."""
        lane = self._lanes[alias]
        if lane.has_answered or any(report.answered or report.empty for report in lane.reports.values()):
            return True
        if lane.answered_before is None:  # what costs nothing leaves no dollars
            lane.answered_before = len((await asyncio.to_thread(self._journal.by_kind, alias)).answered) > 0
        return lane.answered_before

    async def doubt(self, alias: str, refused: Sequence[Refused]) -> None:
        """Rows were refused, and nothing was answered yet. Whose fault it is shows at the end: see `verdict`."""
        self._lanes[alias].refused += refused

    async def verdict(self, alias: str) -> list[Answer]:
        """The model's senders are through: what to journal of the rows in doubt. Stops the lane where the fault is its own."""
        lane = self._lanes[alias]
        refused, lane.refused = lane.refused, []
        if not refused:
            return []
        fault = "" if await self.has_answers(alias) else lane.stopped or fault_of(alias, refused)
        if fault:
            await self.stop(alias, fault)
        return entries_of(refused, are_the_rows=not fault)

    async def next_wave(
        self, ended: Sequence[str], caps_usd: Mapping[tuple[str, ...], float] | None, cap_usd: float | None
    ) -> None:
        """A wave of the models `ended` is through: take back what its senders hold, and set what models may spend now.

        caps_usd: per group of models; cap_usd: all of them together. Raises StoreError where the ledger cannot be written.
        """
        async with self._money:
            for alias in ended:
                self._bury_open(self._lanes[alias])
                await asyncio.to_thread(self._budget.retire, alias)
                self._lanes[alias].short_of_money = False
            self._budget.recap(cap_usd, caps_usd or {})

    def _bury_open(self, lane: _Lane) -> None:
        """Senders that ended in the middle: what they had in flight may have been charged."""
        for claim in lane.claims.open:
            self._budget.bury(claim.sender.unique, 0.0, 0.0)

    async def reserve(self, alias: str, name: str, worst_usd: NDArray[np.float64]) -> Taken:
        """Dollars for the first rows of a provider batch, durable before it is made: see jobs.money.reservations."""
        lane = self._lanes[alias]
        async with self._money:
            if lane.stopped or self._closed:
                return Taken(0)
            taken = await asyncio.to_thread(self._reservations.take, alias, name, worst_usd)
        lane.short_of_money |= taken.exhausted
        return taken

    async def adopt_reserved(self, alias: str, name: str) -> None:
        """The dollars of a batch that an earlier start left running are in use again."""
        async with self._money:
            await asyncio.to_thread(self._reservations.adopt, alias, name)

    async def settle_reserved(self, alias: str, name: str, gone: bool = False) -> None:
        """All rows of a batch are on the store, or it will never be made: its dollars are booked, the rest is free; with
        `gone` the rest is lost: the provider knows nothing of it any more."""
        async with self._money:
            lost_usd = await asyncio.to_thread(self._reservations.close, alias, name, gone)
        if gone:
            self._lanes[alias].gone_batches += 1
            self._lanes[alias].gone_usd += lost_usd

    async def limited(self, alias: str, retry_after_s: float | None) -> None:
        """A sender got a 429: all senders of the model wait."""
        lane = self._lanes[alias]
        lane.limiter.pause(retry_after_s, _answers_per_s(lane.history, lane.limiter.cut_at))

    def _note(self, lane: _Lane, actor_id: str, report: Report) -> None:
        lane.reports[actor_id] = report
        now = time.monotonic()
        lane.history.append((now, sum(each.answered for each in lane.reports.values())))
        while now - lane.history[0][0] > RATE_WINDOW_S:
            lane.history.popleft()

    # The run --------------------------------------------------------------------------------------------------------

    async def stop(self, alias: str, reason: str, kind: StopKind = "lane_down") -> None:
        """Nobody sends for this model any more. `reason`: one line with the fix; the first one stands."""
        lane = self._lanes[alias]
        if not lane.stopped:
            lane.stopped, lane.stop_kind = reason, kind
            self._budget.unfollowed.add(alias)

    async def state(self) -> GovernorState:
        """How the run stands."""
        async with self._money:
            dollars, reserved_usd = self._budget.state(), self._budget.reserved_usd()
        models = {alias: _state_of(lane, reserved_usd.get(alias, 0.0)) for alias, lane in self._lanes.items()}
        return GovernorState(dollars, models)

    async def close(self) -> GovernorState:
        """End of the session: what senders have not spent is given back, on the store. Call when no lane runs."""
        for alias in self._lanes:
            await self.verdict(alias)  # nobody writes to the journal any more: rows in doubt stay open
        async with self._money:
            for lane in self._lanes.values():
                self._bury_open(lane)
            self._closed = True  # before the write: whether or not it succeeds, nothing may be granted beside it
            await asyncio.to_thread(self._budget.close)
        return await self.state()


def _state_of(lane: _Lane, reserved_usd: float) -> ModelState:
    return ModelState(
        totals=Report.total(lane.reports.values()),
        requests_per_minute=lane.limiter.requests_per_minute,
        reserved_usd=reserved_usd,
        paused_s=lane.limiter.paused_s,
        stopped=lane.stopped,
        stop_kind=lane.stop_kind,
        short_of_money=lane.short_of_money,
        gone_batches=lane.gone_batches,
        gone_usd=lane.gone_usd,
        excess=lane.excess,
        key_trouble=lane.key_trouble,
    )


def _answers_per_s(history: deque[tuple[float, int]], since: float = -math.inf) -> float | None:
    """Answers a second over the window, or the part of it after `since`; None before there is a second of it."""
    start = next((point for point in history if point[0] >= since), None)
    if start is None or history[-1][0] - start[0] < 1.0:
        return None
    return (history[-1][1] - start[1]) / (history[-1][0] - start[0])
