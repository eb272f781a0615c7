"""Rows into batches and back: reserve, upload, create, poll, settle. After any death the next process goes on.

The rows of a block become as many files as they need. A file holds at most 50,000 rows and 200 MB; no more rows than the dollars
left can pay in the worst case; and no more tokens than the provider's queue has room for. One file is made and sent at a time;
its batch then runs beside the others. Rows that a batch did not answer (expired, missing, failed) go into a later one.

Nothing is lost with the process. Each step is written down before the next (jobs.lanes.openai_batch.manifest), so that the next
process finds every batch. Each batch has a session of its own in the journal, which tells how far its settling had come
(jobs.lanes.openai_batch.running).

All this runs on one event loop. Memory: some 600 bytes a row that is sent from here, 45 bytes a row of an earlier process's
batch, and the answers of the few batches that are being read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from itertools import islice

import aiohttp
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.journal.writer import JournalWriter
from jobs.lanes.base import LaneContext
from jobs.lanes.openai.endpoint import Endpoint
from jobs.lanes.openai.rows import COUNTED, Counted, counted_row, rows_of
from jobs.lanes.openai_batch.api import ADOPT_S, BatchApi
from jobs.lanes.openai_batch.queue import BatchQueue
from jobs.lanes.openai_batch.results import Outcome
from jobs.lanes.openai_batch.rows import Pending, file_line, prepare
from jobs.lanes.openai_batch.running import POLL_S, Batches, Running
from jobs.lanes.openai_batch.tasks import BatchTasks
from jobs.money.excess import Excess
from jobs.money.reservations import new_name, nonce_of, unfinished
from jobs.storage.keys import is_among
from jobs.storage.store import Store

ROWS_A_TURN = 1000
"""Rows made ready before other blocks get the event loop: some 0.1 s."""


class BatchAsker:
    """Asks one model's endpoint in batches and settles rows in the journal. `open` before the first `block` or `follow`."""

    def __init__(
        self,
        context: LaneContext,
        endpoint: Endpoint,
        session: aiohttp.ClientSession,
        node_id: str,
        pid: int,
        poll_s: float = POLL_S,
        adopt_s: float = ADOPT_S,
    ) -> None:
        self.context = context
        self._poll_s = poll_s
        self._api = BatchApi(endpoint, session, context.model, context.alias, adopt_s)
        self._journal = JournalWriter(context.output, context.alias, context.local_dir, context.session)
        self._adopted: list[tuple[NDArray[np.int64], asyncio.Task[Outcome | None]]] = []
        self.lane = BatchTasks(context, self._journal.unique)
        self._sending = asyncio.Lock()
        self._queue = BatchQueue(context, poll_s)
        self._batches = Batches(self.lane, self._api, endpoint, self._queue, (node_id, pid), poll_s)
        self._n_blocks = self._n_open = 0
        """Blocks begun, and under way."""
        self._poor: set[int] = set()
        """Blocks whose next rows wait for dollars. Blocks come best rows first: later ones do not overtake them."""

    async def open(self) -> None:
        """Find the batches that earlier processes left, and follow them from now on."""
        self.lane.start(self.lane.watch(20 * self._poll_s))
        await self.lane.guarded(self.lane.learn(Excess()))
        if self.lane.stopped:
            return
        for name in await asyncio.to_thread(unfinished, Store(self.context.output), self.context.alias):
            keys, bound = await asyncio.to_thread(self._batches.manifest.keys, name)
            if self.lane.stopped:  # what starts now would not end with it
                return
            self._adopted.append((keys, self.lane.start(self._batches.adopt(name, keys, bound))))

    async def block(self, block: pa.Table) -> Counted:
        """Settle the rows of a block with ASK_COLUMNS. What has an answer when all is done, or when the lane stops."""
        settled: list[Counted] = []
        self._n_open += 1
        try:
            if not self.lane.stopped:
                work = self.lane.start(self._work(block, settled))
                await asyncio.wait([work])
                if not work.cancelled():
                    work.result()
            if self._n_open == 1:  # with the last block the process ends
                await self._adopted_are_through()
        finally:
            self._n_open -= 1
        self.lane.count(left=block.num_rows - sum(map(len, settled)))
        await self._commit()
        return np.concatenate([np.empty(0, COUNTED), *settled])

    async def follow(self) -> None:
        """Without rows to ask: settle the batches that earlier processes left."""
        await self._adopted_are_through()
        await self._commit()

    async def _adopted_are_through(self) -> None:
        if tasks := [task for _, task in self._adopted]:
            await asyncio.wait(tasks)

    async def _commit(self) -> None:
        """All that is settled is on the store, and the governor knows it."""
        for writer in self._writers():
            await self.lane.guarded(asyncio.to_thread(writer.flush))
        await self.lane.report()

    async def close(self) -> None:
        """Leave everything as it is; the batches run on."""
        await self.lane.end()
        for writer in self._writers():
            await asyncio.to_thread(writer.close)

    def _writers(self) -> list[JournalWriter]:
        return [self._journal, *(batch.writer for batch in self._batches.running.values())]

    # A block --------------------------------------------------------------------------------------------------------

    async def _work(self, block: pa.Table, settled: list[Counted]) -> None:
        """Send the rows and take in what comes, until all are settled or none can be sent any more."""
        number, self._n_blocks = self._n_blocks, self._n_blocks + 1
        followed, rest = self._split(block)
        queue = deque(await self._prepared(block, rest, settled))
        while queue or followed:
            while queue and (batch := await self._send(queue, number)) is not None:
                followed.add(self.lane.start(self._batches.follow(batch)))
            if not queue:
                self._poor.discard(number)
            if not followed:
                await asyncio.sleep(self._poll_s)
                continue
            done, followed = await asyncio.wait(
                followed, timeout=self._poll_s if queue else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                outcome = task.result()
                if outcome is not None:
                    settled.append(outcome.settled)
                    queue.extend(outcome.again)

    def _split(self, block: pa.Table) -> tuple[set[asyncio.Task[Outcome | None]], NDArray[np.int64]]:
        """What brings the rows that batches of earlier processes hold, and the places of the others."""
        keys = block["row_key"].to_numpy()
        rest = np.arange(len(keys))
        followed = set()
        for adopted, task in self._adopted:
            held = is_among(keys[rest], adopted)
            if held.any():
                followed.add(self.lane.start(self._part_of(task, block, rest[held])))
                rest = rest[~held]
        return followed, rest

    async def _part_of(
        self, adopted: asyncio.Task[Outcome | None], block: pa.Table, places: NDArray[np.int64]
    ) -> Outcome:
        """Of what an adopted batch brings: what is about these rows of a block, and which of them have to be sent."""
        outcome = await asyncio.shield(adopted)
        if outcome is None:  # the lane is stopped: whether these rows are paid for is for the next start to find out
            return Outcome()
        keys = block["row_key"].to_numpy()[places]
        settled = [outcome.settled[np.isin(outcome.settled["row_key"], keys)]]
        again = await self._prepared(block, places[~is_among(keys, outcome.done)], settled)
        return Outcome(settled=np.concatenate(settled), again=again)

    async def _prepared(self, block: pa.Table, places: NDArray[np.int64], settled: list[Counted]) -> list[Pending]:
        """These rows of a block, ready to be sent; those that make no request are settled."""
        pendings = []
        for number, row in enumerate(rows_of(block, places)):
            if number % ROWS_A_TURN == 0:
                await asyncio.sleep(0)
            pending = prepare(row, self.context)
            if isinstance(pending, Pending):
                pendings.append(pending)
            else:
                answer = row.head.unanswered("rejected", pending, attempts=0)
                self._journal.append(answer)
                self.lane.count_answer(answer)
                settled.append(np.array([counted_row(answer)], COUNTED))
        return pendings

    async def _send(self, queue: deque[Pending], number: int) -> Running | None:
        """Make a batch of the first rows of `queue`, which lose their place in it. None where nothing can go now."""
        async with self._sending:
            n_fit = self._queue.fitting(queue, self._batches.waiting_tokens(), bool(self._batches.running))
            if self.lane.stopped or not n_fit or any(earlier < number for earlier in self._poor):
                return None
            name = new_name()
            part = list(islice(queue, n_fit))
            excess = self.lane.terms.excess
            worst_usd = np.array([pending.bounds.worst_usd(self.context, excess) for pending in part])
            taken = await self.lane.governor.reserve(self.context.alias, name, worst_usd)
            if taken.rows:
                self._poor.discard(number)
            else:
                self._poor.add(number)
                if taken.exhausted:  # dearer rows will not be paid for, cheaper ones may
                    keep = [each for each in queue if each.bounds.worst_usd(self.context, excess) < worst_usd[0]]
                    queue.clear()
                    queue.extend(keep)
                return None
            part = [queue.popleft() for _ in range(taken.rows)]
            writer = self._batches.writer(name)
            keys = np.array([pending.row.head.row_key for pending in part], np.int64)
            skipped = set((await self._batches.claim(writer, keys)).tolist())
            for pending in part:
                pending.tries += 1
                pending.file_row = replace(pending.file_row, attempts=pending.file_row.attempts + 1)
            pendings = {p.row.head.row_key: p for p in part if p.row.head.row_key not in skipped}
            rows = [pending.file_row for pending in pendings.values()]
            tokens = self._queue.tokens(sum(row.bound for row in rows))
            batch = Running(name, np.array(sorted(pendings), np.int64), tokens, writer, pendings)
            if not rows:
                await self._batches.close(batch, Outcome())
                return None
            self._batches.begun(batch)
            self.lane.count(requests=len(rows))
            await asyncio.to_thread(self._batches.manifest.write_rows, name, rows)
            data = await asyncio.to_thread(
                lambda: b"".join(file_line(pending, self.context) for pending in pendings.values())
            )
            file_id = await self._api.upload(f"headgate-{nonce_of(name)}.jsonl", data)
            del data
            created = await self._api.create(file_id, nonce_of(name))
            await self._batches.record(batch, created)
            return batch
