"""The half-price lane: a provider's files and batches API. Hours instead of seconds, half the dollars, no rate limits.

One actor a model is enough: the API is not throughput-bound. It gets blocks of up to 50,000 rows and runs many at once,
each of which waits for its batches; `jobs.lanes.openai_batch.asker` is the work, `jobs.lanes.openai_batch.api` the
calls, `jobs.lanes.openai_batch.manifest` and `jobs.money.reservations` what outlives the actor. Prefer `engine: openai`
where answers are wanted today.
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import numpy as np
import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy

from jobs.lanes.base import LaneCheck, LaneContext
from jobs.lanes.openai.endpoint import base_url_of, endpoint_of, get, hand_over, has_key_here, key_of
from jobs.lanes.openai.lane import CONNECT_TIMEOUT_S, OpenAILane
from jobs.lanes.openai.rows import COUNTED, progress
from jobs.lanes.openai_batch.asker import BatchAsker

BLOCKS = 32
"""Blocks under way at once: 1.6 million rows in batches, which the provider's own queue limits well before."""


class OpenAIBatchLane:
    """Engine `openai_batch`."""

    def check(self, context: LaneContext) -> LaneCheck:
        """As the synchronous lane's; and the endpoint has to know batches."""
        found = OpenAILane().check(context)
        if not found.ok:
            return found
        url = base_url_of(context.model)
        status, _ = get(f"{url}/batches?limit=1", key_of(context.model))
        if status in (404, 405, 501):
            return LaneCheck(False, f"models.{context.alias}.engine: {url} has no batch API; use engine: openai")
        if status != 200:
            return LaneCheck(False, f"models.{context.alias}: {url}/batches is not working (HTTP {status}); try later")
        return LaneCheck(True, f"{found.detail}, in batches", found.context_tokens)

    def answer(self, rows: ray.data.Dataset, context: LaneContext) -> ray.data.Dataset:
        """See jobs.lanes.base.Lane. A lane at fault leaves its rows open, its batches running, and says why (`stop`).

        A block without ASK_COLUMNS (`ray.data.range(1)`) asks nothing: it is through when the batches of earlier starts are.
        """
        hand_over(context)
        return rows.map_batches(
            BatchActor,
            fn_constructor_args=(context, base_url_of(context.model), has_key_here(context.model)),
            compute=ActorPoolStrategy(
                size=1,
                max_tasks_in_flight_per_actor=BLOCKS + 2,
                max_concurrent_calls_per_actor=BLOCKS,
                enable_true_multi_threading=True,
            ),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=context.num_cpus,
        )


class BatchActor:
    """The one process of a model. Called with a block from several threads at once."""

    def __init__(self, context: LaneContext, base_url: str, needs_key: bool) -> None:
        """`needs_key`: the driver has a key, so this process must have one too: keys do not travel with the work."""
        self._context, self._endpoint = context, endpoint_of(context, base_url)
        self._needs_key = needs_key
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(16))
        threading.Thread(target=self._loop.run_forever, name="batches", daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    async def _open(self) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        session = aiohttp.ClientSession(timeout=timeout)
        node_id = ray.get_runtime_context().get_node_id()
        self._asker = BatchAsker(self._context, self._endpoint, session, node_id, os.getpid())
        await self._asker.lane.guarded(self._endpoint.ask())
        if self._needs_key and not self._endpoint.key:
            env, alias = self._context.model.api_key_env, self._context.alias
            await self._asker.lane.halt(
                f"models.{alias}: ${env} is set where the job was started, not on node {node_id[:8]}; "
                "give it to the worker nodes too"
            )
        await self._asker.open()

    def __call__(self, block: pa.Table) -> pa.Table:
        """Settle the rows of a block, hours later; one row of counts."""
        if "row_key" not in block.column_names:
            asyncio.run_coroutine_threadsafe(self._asker.follow(), self._loop).result()
            return progress(np.empty(0, COUNTED), 0)
        settled = asyncio.run_coroutine_threadsafe(self._asker.block(block), self._loop).result()
        return progress(settled, block.num_rows)
