"""ray.data.llm's engine stage, with an eye on rows that take the engine down (jobs.lanes.local.under_way).

When vLLM's engine dies its Ray actor ends, Ray starts another and gives it the same rows. Here rows that were under way at
two deaths wait until the engine has nothing else to do and go one at a time; the one it dies of then is not asked again.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from typing import Any

from ray.llm._internal.batch.stages.vllm_engine_stage import vLLMEngineStageUDF
from ray.llm._internal.common.errors import VLLM_FATAL_ERRORS

from jobs.lanes.base import LaneContext
from jobs.lanes.local.gpu_clock import GpuClock
from jobs.lanes.local.rows import RayRow
from jobs.lanes.local.under_way import UnderWay

GATHER_S = 0.2
"""Suspects of one batch come together within this; those that nobody died of alone go first."""


class RowKillsEngine(Exception):
    """Becomes the row's error."""


class CarefulEngine(vLLMEngineStageUDF):
    """The engine actor."""

    def __init__(self, *arguments: Any, context: LaneContext, clock: GpuClock, **options: Any) -> None:
        clock.begin()
        self._rows, self._turns = UnderWay(context), Turns()
        super().__init__(*arguments, **options)
        self._generate = self.llm.generate_async
        self.llm.generate_async = self._carefully  # type: ignore[method-assign]

    async def _carefully(self, row: RayRow) -> Any:
        key = int(row["row_key"])
        if not self._rows.is_suspect(key):
            async with self._turns.beside_others():
                return await self._ask(row, alone=False)
        async with self._turns.alone(self._rows.deaths_alone(key)):
            if self._rows.is_culprit(key):
                raise RowKillsEngine(self._rows.why_not_asked(key))
            return await self._ask(row, alone=True)

    async def _ask(self, row: RayRow, alone: bool) -> Any:
        slot = self._rows.begin(int(row["row_key"]), alone)
        try:
            answer = await self._generate(row)
        except VLLM_FATAL_ERRORS:  # the engine is dead, and this process ends: what was under way stays noted
            raise
        except BaseException:
            self._rows.end(slot)
            raise
        self._rows.end(slot)
        return answer


class Turns:
    """Rows side by side; those that go alone wait until nothing else is under way, by `order`."""

    def __init__(self) -> None:
        self._running, self._is_alone = 0, False
        self._open = asyncio.Event()
        self._open.set()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._number = itertools.count()

    @asynccontextmanager
    async def beside_others(self) -> AsyncIterator[None]:
        while self._is_alone:
            await self._open.wait()
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._next()

    @asynccontextmanager
    async def alone(self, order: int) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        heappush(self._waiting, (order, next(self._number), turn))
        loop.call_later(GATHER_S, self._next)
        await turn
        try:
            yield
        finally:
            self._is_alone = False
            self._open.set()
            loop.call_soon(self._next)  # after those who may go side by side

    def _next(self) -> None:
        while self._waiting and not self._running and not self._is_alone:
            turn = heappop(self._waiting)[2]
            if not turn.done():  # else its row was given up
                self._is_alone = True
                self._open.clear()
                turn.set_result(None)
