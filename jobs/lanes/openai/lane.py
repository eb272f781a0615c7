"""The API lane: any OpenAI-compatible endpoint, N requests in flight and no more, every answer in the journal first.

An actor is a plain class with a synchronous `__call__` and an event loop in a thread of its own: an async UDF's loop
stands still while downstream is slow, and sockets left unread time out and are paid twice. Ray runs several blocks of
an actor at once (`max_concurrent_calls_per_actor`), so that the stragglers of one block never leave places in flight
empty: all its blocks share one set of slots. A block is done when its rows are committed to the store.
`jobs.lanes.openai.exchange` is one row's way, `jobs.money.claims` what happens when an actor dies. Plain aiohttp: 30 times the
requests a second of the openai SDK's default.
"""

from __future__ import annotations

import asyncio
import difflib
import math
import os
import threading
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy

from jobs.errors import HeadgateError, LaneDown, StoreError
from jobs.journal.writer import JournalWriter
from jobs.lanes.base import LaneCheck, LaneContext
from jobs.lanes.faults import clean
from jobs.lanes.openai.asker import Asker
from jobs.lanes.openai.endpoint import (
    base_url_of,
    endpoint_of,
    get,
    hand_over,
    has_key_here,
    is_private,
    key_of,
    listed_models,
    status_inside,
)
from jobs.lanes.openai.exchange import Exchange
from jobs.lanes.openai.rows import COUNTED, counted_row, progress, rows_of
from jobs.lanes.openai.slots import Slots
from jobs.lanes.providers.errors import is_page, read_error
from jobs.lanes.providers.words import is_no_endpoint
from jobs.money.keys import KeyCommandError
from jobs.money.sender import Allowance
from jobs.spec.models import check_address

CONNECT_TIMEOUT_S = 10.0
KEEPALIVE_S = 4.0
"""Below the 5 s after which uvicorn servers (vLLM) hang up: a request on a dying connection may count as charged."""
MIN_BLOCKS, MAX_BLOCKS = 8, 32
T = TypeVar("T")


class OpenAILane:
    """Engine `openai`."""

    def check(self, context: LaneContext) -> LaneCheck:
        """GET /models with the key. An endpoint without such a list passes: the first request will tell."""
        model, alias = context.model, context.alias
        url, name = base_url_of(model), model.model or alias
        try:
            key = key_of(model)
            check_address(url)  # the job file's is checked where it is read, the environment's here
        except ValueError as wrong:
            return LaneCheck(False, f"models.{alias}: $OPENAI_BASE_URL {wrong}")
        except KeyCommandError as none:
            return LaneCheck(False, f"models.{alias}.api_key_command: {none}")
        parts = urlsplit(url)
        if not key and not (model.base_url or os.environ.get("OPENAI_BASE_URL")):
            return LaneCheck(
                False, f"models.{alias}: ${model.api_key_env} is not set; export the provider's key under that name"
            )
        if key and parts.scheme == "http" and not is_private(str(parts.hostname)):
            return LaneCheck(False, f"models.{alias}.base_url: {url} would send the key unencrypted; use https://")
        status, raw = get(f"{url}/models", key)
        told = read_error(raw)
        error = clean(told.message, key)
        if status == 200 and status_inside(raw) in (401, 403):
            status = 401
        if status in (401, 403) and not key:
            return LaneCheck(False, f"models.{alias}: {url} wants a key and ${model.api_key_env} is not set; export it")
        if status in (401, 403):
            return LaneCheck(
                False, f"models.{alias}: the key in {model.key_from} is refused by {url} (HTTP {status}: {error})"
            )
        if status == 0:
            return LaneCheck(
                False, f"models.{alias}.base_url: {url} cannot be reached ({error}); start it or mend the address"
            )
        if status >= 500:
            return LaneCheck(False, f"models.{alias}: {url} is not working (HTTP {status}: {error}); try again later")
        if status == 200 and (is_page(raw) or is_no_endpoint(told)):
            what = f"answers {error!r}" if error else "answers with nothing"
            return LaneCheck(
                False, f"models.{alias}.base_url: {url} {what} and no list of models; it should end in /v1"
            )
        served = listed_models(raw) if status == 200 else {}
        served |= {each.removeprefix("models/"): length for each, length in served.items()}  # Google's way
        if not served:
            return LaneCheck(True, f"{url} answers, but lists no models")
        if name not in served:
            close = difflib.get_close_matches(name, served, n=3, cutoff=0.3) or sorted(served)[:3]
            return LaneCheck(False, f"models.{alias}.model: {url} does not serve {name!r}; it has {', '.join(close)}")
        return LaneCheck(True, f"{url} serves {name}", served[name])

    def answer(self, rows: ray.data.Dataset, context: LaneContext) -> ray.data.Dataset:
        """See jobs.lanes.base.Lane. A lane at fault leaves its rows open and tells the governor why (`stop`)."""
        replicas = min(context.model.replicas, context.model.limits.in_flight)
        in_flight = context.model.limits.in_flight // replicas
        # Rows waiting beside those in flight have to last through a block's commit (2 s) and hand-over.
        n_blocks = math.ceil(4 * in_flight / context.rows_per_block) + 2
        n_blocks = min(MAX_BLOCKS, max(MIN_BLOCKS, n_blocks))
        hand_over(context)
        return rows.map_batches(
            ApiActor,
            fn_constructor_args=(context, base_url_of(context.model), in_flight, has_key_here(context.model)),
            compute=ActorPoolStrategy(
                size=replicas,
                max_tasks_in_flight_per_actor=n_blocks + 2,
                max_concurrent_calls_per_actor=n_blocks,
                enable_true_multi_threading=True,
            ),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=context.num_cpus,
        )


class ApiActor:
    """One sending process. Called with a block from several threads at once."""

    def __init__(self, context: LaneContext, base_url: str, in_flight: int, needs_key: bool) -> None:
        """`needs_key`: the driver has a key, so this process must have one too: keys do not travel with the work."""
        self._context, self._endpoint, self._in_flight = context, endpoint_of(context, base_url), in_flight
        self._needs_key = needs_key
        assert context.governor is not None, "calls are paid"
        self._governor = context.governor
        self._node_id = ray.get_runtime_context().get_node_id()
        self._journal = JournalWriter(context.output, context.alias, context.local_dir, context.session)
        self._loop = asyncio.new_event_loop()
        # Blocks that wait for their commit sit in these threads, and so do DNS look-ups.
        self._loop.set_default_executor(ThreadPoolExecutor(MAX_BLOCKS + 8))
        threading.Thread(target=self._loop.run_forever, name="api-requests", daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    async def _open(self) -> None:
        context = self._context
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S, ttl_dns_cache=60)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        # trust_env stays off: a proxy of the environment would see prompts that its owner never meant for it.
        session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        self._allowance = Allowance(self._governor, context.alias, self._journal.unique, context.model.limits)
        self._allowance.start()
        self._asker = Asker(context, self._endpoint, session, self._allowance, self._journal, Slots(self._in_flight))
        try:
            await self._endpoint.ask()
        except LaneDown as none:
            await self._allowance.stop(str(none))
        if self._needs_key and not self._endpoint.key:
            env = context.model.api_key_env
            await self._allowance.stop(
                f"models.{context.alias}: ${env} is set where the job was started, not on node {self._node_id[:8]}; "
                "give it to the worker nodes too"
            )

    def __call__(self, block: pa.Table) -> pa.Table:
        """Settle the rows of a block; one row of counts. Raises LaneDown where the governor is gone."""
        return asyncio.run_coroutine_threadsafe(self._block(block), self._loop).result()

    async def _block(self, block: pa.Table) -> pa.Table:
        keys, alias, actor_id = block["row_key"].to_numpy(), self._context.alias, self._journal.unique
        skip = await self._told(self._governor.begin(alias, actor_id, self._node_id, os.getpid(), keys))
        if skip is None:
            return progress(np.empty(0, COUNTED), block.num_rows)
        asked = ~np.isin(keys, skip)
        rows = list(rows_of(block, np.flatnonzero(asked)))
        answers = await asyncio.gather(*(Exchange(self._asker, row).run() for row in rows))
        await self._asker.refusals.end_block()
        settled = [
            answer for answer in answers if answer is not None and answer.row_key not in self._asker.refusals.dropped
        ]
        self._allowance.add(left=len(rows) - len(settled))
        try:
            if self._allowance.counts.in_flight:
                await asyncio.to_thread(self._journal.wait, self._journal.appended)
            else:  # nothing else is under way: no reason to wait for the next regular commit
                await asyncio.to_thread(self._journal.flush)
        except StoreError as error:  # the claim stays: what is in the local log alone must not be asked again
            await self._allowance.stop(str(error))
            await self._allowance.settle_up()
        else:  # dollars first: once the claim is finished, nobody asks a dead sender's log what it has paid
            await self._allowance.settle_up()
            keys_settled = np.array([answer.row_key for answer in settled], np.int64)
            await self._told(self._governor.finish(alias, actor_id, keys[asked], keys_settled))
        return progress(np.array([counted_row(answer) for answer in settled], COUNTED), len(rows))

    async def _told(self, call: Awaitable[T]) -> T | None:
        """A call to the governor about rows. None where it cannot write to the store: the lane is stopped then."""
        try:
            return await call
        except LaneDown:
            raise
        except HeadgateError as error:
            await self._allowance.stop(str(error))
            return None
