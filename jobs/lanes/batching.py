"""Rows into batches and back, on one event loop: reserve, upload, create, poll, settle, and come back after any death.

Each block's rows become as many files as are needed: up to 50,000 rows and 200 MB, no more than the dollars left can pay
for in the worst case, no more tokens than the provider's queue takes. Files are cut and sent one at a time, their batches
run side by side. What a batch did not answer (expired, missing, failed) goes into a next one. Nothing is lost with the
process: the order of writes (jobs.batches) lets the next one find every batch, and a batch's rows are journaled in a
session of its own, so that settling goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field, replace
from itertools import compress, islice
from typing import Any

import aiohttp
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.answer_rows import Answer
from jobs.batches import FileRow, Manifest
from jobs.errors import LaneDown
from jobs.journal import Journal, JournalWriter
from jobs.lanes.asking import Endpoint
from jobs.lanes.base import LaneContext
from jobs.lanes.batch_api import ADOPT_S, BatchApi
from jobs.lanes.batch_queue import BatchQueue
from jobs.lanes.batch_results import Outcome, Results
from jobs.lanes.batch_rows import Pending, file_line, prepare
from jobs.lanes.batch_tasks import BatchTasks
from jobs.lanes.exchange import Row
from jobs.reservations import new_name, nonce_of, unfinished
from jobs.scored import is_among
from jobs.store import Store

FINAL = ("completed", "failed", "expired", "cancelled")
POLL_S, POLL_LIMIT_S, POLL_SHARE = 1.0, 60.0, 0.05
"""A batch is asked for again after a twentieth of its age: that much later than it ends are its answers here."""
BATCH_LIMIT_S = 30 * 3600.0
"""No provider's window is longer than 24 h; a batch that has not ended then is for a person to look at."""
ROWS_A_TURN = 1000
"""Rows made ready before other blocks get the event loop: some 0.1 s."""


@dataclass(slots=True)
class Running:
    """A batch of this run that has not been settled."""

    name: str
    rows: dict[int, FileRow]
    tokens: float
    """Prompt tokens that the provider counts as queued, estimated."""
    writer: JournalWriter
    pending: dict[int, Pending] = field(default_factory=dict)
    """What to send again where it brings no answer; empty for one that an earlier process made."""
    journaled: set[int] = field(default_factory=set)
    """Rows that an earlier process has settled."""
    batch_id: str = ""
    since: float = field(default_factory=time.monotonic)

    def keys(self) -> NDArray[np.int64]:
        return np.fromiter(self.rows, np.int64, len(self.rows))


class BatchAsker:
    """Asks one model's endpoint in batches and settles rows in the journal. `open` before the first `block`."""

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
        self._endpoint, self._node_id, self._pid, self._poll_s = endpoint, node_id, pid, poll_s
        self._api = BatchApi(endpoint, session, context.model, context.alias, adopt_s)
        self._store = Store(context.output)
        self._manifest = Manifest(self._store, context.alias)
        self._journal = JournalWriter(context.output, context.alias, context.local_dir, context.session)
        self._running: dict[str, Running] = {}
        self._adopted: list[tuple[NDArray[np.int64], asyncio.Task[Outcome | None]]] = []
        self.lane = BatchTasks(context, self._journal.unique)
        self._sending = asyncio.Lock()
        self._queue = BatchQueue(context, poll_s)
        self._n_blocks = 0
        self._poor: set[int] = set()
        """Blocks whose next rows wait for dollars. Blocks come best rows first: later ones do not overtake them."""

    async def open(self) -> None:
        """Find the batches that earlier processes left, and follow them from now on."""
        self.lane.start(self.lane.watch(20 * self._poll_s))
        if self.lane.stopped:
            return
        for name in await asyncio.to_thread(unfinished, self._store, self.context.alias):
            rows = await asyncio.to_thread(self._manifest.rows, name)
            keys = np.sort(np.fromiter((row.row_key for row in rows), np.int64, len(rows)))
            self._adopted.append((keys, self.lane.start(self._adopt(name, rows))))

    async def block(self, block: pa.Table) -> list[Answer]:
        """Settle the rows of a block with ASK_COLUMNS. What has an answer when all is done, or when the lane stops."""
        columns = (block[name].to_pylist() for name in ("row_key", "bucket", "sample"))
        rows = [Row(block, place, *values) for place, values in enumerate(zip(*columns, strict=True))]
        answers: list[Answer] = []
        if not self.lane.stopped:
            work = self.lane.start(self._work(rows, answers))
            await asyncio.wait([work])
            if not work.cancelled():
                work.result()
        self.lane.count(left=len(rows) - len(answers))
        for writer in [self._journal, *(batch.writer for batch in self._running.values())]:
            await self.lane.guarded(asyncio.to_thread(writer.flush))
        await self.lane.report()
        return answers

    async def close(self) -> None:
        """Leave everything as it is; the batches run on."""
        await self.lane.end()
        for writer in [self._journal, *(batch.writer for batch in self._running.values())]:
            await asyncio.to_thread(writer.close)

    # A block --------------------------------------------------------------------------------------------------------

    async def _work(self, rows: list[Row], answers: list[Answer]) -> None:
        """Send the rows and take in what comes, until all are settled or none can be sent any more."""
        number, self._n_blocks = self._n_blocks, self._n_blocks + 1
        queue, followed = await self._split(rows, answers)
        while queue or followed:
            while queue and (batch := await self._send(queue, number)) is not None:
                followed.add(self.lane.start(self._follow(batch)))
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
                    answers += outcome.answers
                    queue.extend(outcome.again)

    async def _split(
        self, rows: list[Row], answers: list[Answer]
    ) -> tuple[deque[Pending], set[asyncio.Task[Outcome | None]]]:
        """Rows to send, and what brings the others: batches of earlier processes."""
        queue: deque[Pending] = deque()
        for place, row in enumerate(rows):
            if place % ROWS_A_TURN == 0:
                await asyncio.sleep(0)
            pending = prepare(row, self.context, self._queue.extra_tokens)
            if isinstance(pending, Pending):
                queue.append(pending)
            else:
                answer = Answer(row.row_key, row.bucket, "rejected", bytes(16), attempts=0, error=pending)
                self._journal.append(answer)
                self.lane.count_answer(answer)
                answers.append(answer)
        followed = set()
        for keys, task in self._adopted:
            held = is_among(np.fromiter((pending.row.row_key for pending in queue), np.int64, len(queue)), keys)
            if held.any():
                mine = list(compress(queue, held))
                queue = deque(compress(queue, ~held))
                followed.add(self.lane.start(_part_of(task, mine)))
        return queue, followed

    async def _send(self, queue: deque[Pending], number: int) -> Running | None:
        """Make a batch of the first rows of `queue`, which lose their place in it. None where nothing can go now."""
        async with self._sending:
            n_fit = self._queue.fitting(queue, self._waiting_tokens(), bool(self._running))
            if self.lane.stopped or not n_fit or any(earlier < number for earlier in self._poor):
                return None
            name = new_name()
            part = list(islice(queue, n_fit))
            taken = await self.lane.tell("reserve", name, np.array([pending.worst_usd for pending in part]))
            if taken.rows:
                self._poor.discard(number)
            else:
                self._poor.add(number)
                if taken.exhausted:  # dearer rows will not be paid for, cheaper ones may
                    keep = [pending for pending in queue if pending.worst_usd < part[0].worst_usd]
                    queue.clear()
                    queue.extend(keep)
                return None
            part = [queue.popleft() for _ in range(taken.rows)]
            writer = self._writer(name)
            keys = np.array([pending.row.row_key for pending in part], np.int64)
            skip = await self.lane.tell("begin", writer.unique, self._node_id, self._pid, keys)
            skipped = set(skip.tolist())
            for pending in part:
                pending.tries += 1
                pending.file_row = replace(pending.file_row, attempts=pending.file_row.attempts + 1)
            pendings = {p.row.row_key: p for p in part if p.row.row_key not in skipped}
            rows = {key: pending.file_row for key, pending in pendings.items()}
            batch = Running(name, rows, self._queue.tokens(rows.values()), writer, pendings)
            if not rows:
                await self._close(batch, [])
                return None
            self._running[name] = batch
            self.lane.count(requests=len(rows), in_flight=len(rows))
            await asyncio.to_thread(self._manifest.write_rows, name, list(rows.values()))
            data = await asyncio.to_thread(
                lambda: b"".join(file_line(pending, self.context) for pending in pendings.values())
            )
            file_id = await self._api.upload(f"headgate-{nonce_of(name)}.jsonl", data)
            del data
            created = await self._api.create(file_id, nonce_of(name))
            await self._record(batch, created)
            return batch

    def _waiting_tokens(self) -> float:
        return sum(batch.tokens for batch in self._running.values())

    # A batch --------------------------------------------------------------------------------------------------------

    async def _adopt(self, name: str, rows: list[FileRow]) -> Outcome:
        """Follow a batch that an earlier process made. What came of it: nothing where it was never created."""
        await self.lane.tell("adopt_reserved", name)
        of_key = {row.row_key: row for row in rows}
        batch = Running(name, of_key, self._queue.tokens(rows), self._writer(name))
        if rows:
            skip = await self.lane.tell("begin", batch.writer.unique, self._node_id, self._pid, batch.keys())
            # Read after the claim: it commits what a dead process had only in its local log.
            batch.journaled = await asyncio.to_thread(self._journaled, name) | set(skip.tolist())
            self._running[name] = batch
            self.lane.count(in_flight=len(rows))
            batch.batch_id = await asyncio.to_thread(self._manifest.recorded, name)
            if not batch.batch_id:
                created = await self._api.adopt(nonce_of(name))
                if created is not None:
                    await self._record(batch, created)
        if not batch.batch_id:  # it was never created, so nothing will be charged
            await self._close(batch, [])
            return Outcome()
        return await self._follow(batch)

    def _journaled(self, name: str) -> set[int]:
        """Rows of a batch that are in the journal."""
        segments = Journal(self._store).segments(self.context.alias, session=name)
        tables = [self._store.read_table(segment, columns=["row_key"]) for segment in segments]
        return {key for table in tables for key in table["row_key"].to_pylist()}

    async def _record(self, batch: Running, created: dict[str, Any]) -> None:
        if not isinstance(created.get("id"), str):
            raise LaneDown(f"models.{self.context.alias}: {self._endpoint.url} does not speak OpenAI's batch API")
        batch.batch_id = created["id"]
        await asyncio.to_thread(self._manifest.record, batch.name, batch.batch_id)

    async def _follow(self, batch: Running) -> Outcome:
        """Poll to the end of a batch, then settle its rows. What is still to do with them."""
        state = await self._api.get(batch.batch_id)
        while state.get("status") not in FINAL:
            age_s = time.monotonic() - batch.since
            if age_s > BATCH_LIMIT_S:
                raise LaneDown(
                    f"models.{self.context.alias}: batch {batch.batch_id} has not ended in {BATCH_LIMIT_S / 3600:.0f} h; "
                    "look at it at the provider, cancel it there, and run the same command again"
                )
            await asyncio.sleep(min(POLL_LIMIT_S, max(self._poll_s, POLL_SHARE * age_s)))
            state = await self._api.get(batch.batch_id)
        results = Results(self.context, self._endpoint.key, batch.rows, batch.pending, batch.journaled)
        if state["status"] == "failed":
            outcome = results.of_failed(state)
            self._queue.failed(outcome, batch.tokens, self._waiting_tokens() - batch.tokens)
            self.lane.count(limited=int(outcome.queue_full))
        else:
            outcome = await results.of_files(state, self._api, lambda answer: self._settle(batch, answer))
            self._queue.ended(batch.rows, outcome.answers)
        await self._close(batch, outcome.done)
        if outcome.fault:
            raise LaneDown(outcome.fault)
        return outcome

    def _settle(self, batch: Running, answer: Answer) -> None:
        batch.writer.append(answer)
        self.lane.count_answer(answer)

    async def _close(self, batch: Running, done: list[int]) -> None:
        """All that comes of a batch is settled: commit, then free its rows and its dollars. `done`: keys settled."""
        await asyncio.to_thread(batch.writer.close)
        await self.lane.tell("finish", batch.writer.unique, batch.keys(), np.array(sorted(done), np.int64))
        await self.lane.tell("settle_reserved", batch.name)
        if self._running.pop(batch.name, None) is not None:
            self.lane.count(in_flight=-len(batch.rows))

    def _writer(self, name: str) -> JournalWriter:
        """One segment for tens of thousands of rows; until it is written they are in the local log."""
        context = self.context
        return JournalWriter(context.output, context.alias, context.local_dir, name, flush_s=10.0, flush_rows=50_000)


async def _part_of(adopted: asyncio.Task[Outcome | None], mine: list[Pending]) -> Outcome:
    """Of what an adopted batch brings: the answers of these rows, and which of them have to be sent."""
    outcome = await asyncio.shield(adopted)
    wanted = {pending.row.row_key: pending for pending in mine}
    if outcome is None:  # the lane is stopped: whether these rows are paid for is for the next start to find out
        return Outcome()
    done = set(outcome.done)
    return Outcome(
        answers=[answer for answer in outcome.answers if answer.row_key in wanted],
        again=[pending for key, pending in wanted.items() if key not in done],
    )
