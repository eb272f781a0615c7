"""One provider batch from its making to its end: found again, polled, read, settled, closed.

`adopt` is for the batches of earlier processes, `follow` for every batch that the provider has. What a batch holds in memory
while it runs is what its maker wants to send again; rows of an adopted one are read from the store when it has ended, and
no more than READ_AT_ONCE batches are read at a time.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from jobs.errors import LaneDown
from jobs.journal.rows import Answer
from jobs.journal.writer import JournalWriter
from jobs.lanes.openai.endpoint import Endpoint
from jobs.lanes.openai_batch.api import BatchApi, Gone
from jobs.lanes.openai_batch.manifest import Manifest, journaled
from jobs.lanes.openai_batch.queue import BatchQueue
from jobs.lanes.openai_batch.results import Outcome, Results
from jobs.lanes.openai_batch.rows import Pending
from jobs.lanes.openai_batch.state import FINAL, GONE, BatchState
from jobs.lanes.openai_batch.tasks import BatchTasks
from jobs.money.reservations import age_s, nonce_of
from jobs.storage.store import Store

POLL_S, POLL_LIMIT_S, POLL_SHARE = 1.0, 60.0, 0.05
"""A batch is asked for again after a twentieth of its age: that much later than it ends are its answers here."""
BATCH_LIMIT_S = 30 * 3600.0
"""No provider's window is longer than 24 h; a batch that has not ended then is for a person to look at."""
READ_AT_ONCE = 4
"""Batches whose results are read at a time: their answers are in memory until they are committed, 100 MB and more a batch."""


@dataclass(slots=True)
class Running:
    """A batch of this run that has not been settled."""

    name: str
    keys: NDArray[np.int64]
    tokens: float
    """Prompt tokens that the provider counts as queued, estimated."""
    writer: JournalWriter
    pending: dict[int, Pending] = field(default_factory=dict)
    """What to send again where it brings no answer; empty for one that an earlier process made."""
    journaled: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Keys of rows that an earlier process has settled."""
    batch_id: str = ""
    since: float = field(default_factory=time.monotonic)


class Batches:
    """The batches of one model that this process makes or follows. Lives on one event loop."""

    def __init__(
        self,
        lane: BatchTasks,
        api: BatchApi,
        endpoint: Endpoint,
        queue: BatchQueue,
        sender: tuple[str, int],
        poll_s: float,
    ) -> None:
        """`sender`: node id and process id, for the claims on rows."""
        self.running: dict[str, Running] = {}
        """By name, those that are not closed."""
        self._context, self._store = lane.context, Store(lane.context.output)
        self.manifest = Manifest(self._store, lane.context.alias)
        self._lane, self._api, self._endpoint, self._queue = lane, api, endpoint, queue
        self._sender, self._poll_s = sender, poll_s
        self._reading = asyncio.Semaphore(READ_AT_ONCE)

    def waiting_tokens(self) -> float:
        """Prompt tokens of all batches that run, estimated."""
        return sum(batch.tokens for batch in self.running.values())

    def writer(self, name: str) -> JournalWriter:
        """One segment for tens of thousands of rows; until it is written they are in the local log."""
        context = self._context
        return JournalWriter(context.output, context.alias, context.local_dir, name, flush_s=10.0, flush_rows=50_000)

    async def claim(self, writer: JournalWriter, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Claim rows at the governor. Those that are finished, or held by somebody who may be alive."""
        return await self._lane.governor.begin(self._context.alias, writer.unique, *self._sender, keys)

    def begun(self, batch: Running) -> None:
        """Its rows are under way."""
        self.running[batch.name] = batch
        self._lane.count(in_flight=len(batch.keys))

    async def adopt(self, name: str, keys: NDArray[np.int64], bound: int) -> Outcome:
        """Follow a batch that an earlier process made. What came of it: nothing where it was never created."""
        alias = self._context.alias
        await self._lane.governor.adopt_reserved(alias, name)
        batch = Running(name, keys, self._queue.tokens(bound), self.writer(name))
        if len(keys):
            self.begun(batch)
            skip = await self.claim(batch.writer, keys)
            # Read after the claim: it commits what a dead process had only in its local log.
            batch.journaled = await asyncio.to_thread(journaled, self._store, alias, name)
            if len(np.setdiff1d(skip, batch.journaled)):
                raise LaneDown(
                    f"models.{alias}: the process that made {name} may still be settling its rows; "
                    "once it has ended, the same command goes on"
                )
            batch.batch_id = await asyncio.to_thread(self.manifest.recorded, name)
            if not batch.batch_id:
                is_young = await asyncio.to_thread(age_s, self._store, name) < self._api.creation_limit_s
                created = await self._api.adopt(nonce_of(name), may_come=is_young)
                if created is not None:
                    await self.record(batch, created)
        if not batch.batch_id:  # it was never created, so nothing will be charged
            await self.close(batch, Outcome())
            return Outcome()
        return await self.follow(batch)

    async def record(self, batch: Running, created: BatchState) -> None:
        """Note what the provider calls a batch."""
        if not created.batch_id:
            raise LaneDown(f"models.{self._context.alias}: {self._endpoint.url} does not speak OpenAI's batch API")
        batch.batch_id = created.batch_id
        await asyncio.to_thread(self.manifest.record, batch.name, batch.batch_id)

    async def follow(self, batch: Running) -> Outcome:
        """Poll to the end of a batch, then settle its rows. What is still to do with them."""
        state = await self._end_of(batch)
        async with self._reading:
            rows = {key: pending.file_row for key, pending in batch.pending.items()}
            if not rows:
                rows = {row.head.row_key: row for row in await asyncio.to_thread(self.manifest.rows, batch.name)}
            settle = partial(self._settle, batch)
            answered = self._lane.has_answers or await self._lane.governor.has_answers(self._context.alias)
            results = Results(
                self._context,
                self._endpoint.key,
                rows,
                batch.pending,
                batch.journaled,
                settle,
                terms=self._lane.terms,
                answered=answered,
            )
            if state.status == "failed":
                outcome = results.of_failed(state)
                self._queue.failed(outcome, batch.tokens, self.waiting_tokens() - batch.tokens)
                self._lane.count(limited=int(outcome.queue_full))
            elif state.status == GONE:
                outcome = results.of_gone()
            else:
                outcome = await results.of_files(state, self._api)
                self._queue.ended(outcome)
                self._lane.count(beyond=outcome.beyond, beyond_usd=outcome.beyond_usd, uncharged=outcome.uncharged)
            await self._lane.learn(outcome.excess)
            await self.close(batch, outcome)
        if outcome.fault:
            raise LaneDown(outcome.fault)
        return outcome

    async def _end_of(self, batch: Running) -> BatchState:
        """The provider's last word on a batch; status GONE where it has none."""
        try:
            state = await self._api.get(batch.batch_id)
            while state.status not in FINAL:
                runs_s = time.monotonic() - batch.since
                if runs_s > BATCH_LIMIT_S:
                    raise LaneDown(
                        f"models.{self._context.alias}: batch {batch.batch_id} has not ended in {BATCH_LIMIT_S / 3600:.0f} h; "
                        "look at it at the provider, cancel it there, and run the same command again"
                    )
                await asyncio.sleep(min(POLL_LIMIT_S, max(self._poll_s, POLL_SHARE * runs_s)))
                state = await self._api.get(batch.batch_id)
        except Gone:
            return BatchState(batch.batch_id, GONE)
        return state

    def _settle(self, batch: Running, answer: Answer) -> None:
        batch.writer.append(answer)
        self._lane.count_answer(answer)

    async def close(self, batch: Running, outcome: Outcome) -> None:
        """All that comes of a batch is settled: commit, then free its rows and its dollars."""
        alias, governor = self._context.alias, self._lane.governor
        await asyncio.to_thread(batch.writer.close)
        await governor.finish(alias, batch.writer.unique, batch.keys, outcome.done)
        await governor.settle_reserved(alias, batch.name, outcome.gone)
        if self.running.pop(batch.name, None) is not None:
            self._lane.count(in_flight=-len(batch.keys))
