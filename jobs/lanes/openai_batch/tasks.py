"""The tasks of a batch lane: they end with it, what goes wrong in one of them ends it, and its governor hears their counts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from jobs.errors import HeadgateError, one_line
from jobs.journal.rows import Answer
from jobs.lanes.base import LaneContext
from jobs.money.excess import Excess
from jobs.money.messages import Report, Terms
from jobs.money.sender import REPORT_S

T = TypeVar("T")


class BatchTasks:
    """The tasks of one BatchAsker. Lives on its event loop."""

    def __init__(self, context: LaneContext, source: str) -> None:
        """`source` names this process's totals at the governor."""
        assert context.governor is not None, "batches are paid"
        self.context, self.governor, self.stopped = context, context.governor, ""
        self._source, self._counts = source, Report()
        self.terms = Terms()
        """What reservations and bookings reckon with; the governor's own once `learn` was called."""
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def has_answers(self) -> bool:
        """Whether the model has answered anything in this process."""
        return self._counts.answered > 0

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T | None]:
        """A task whose errors stop the lane, and which ends with the lane."""
        task = asyncio.create_task(self.guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def guarded(self, work: Coroutine[Any, Any, T]) -> T | None:
        """`work`, whose errors stop the lane. None where it had one."""
        try:
            return await work
        except HeadgateError as error:
            await self.halt(str(error))
            return None
        except Exception as error:
            await self.halt(f"models.{self.context.alias}: internal error: {one_line(error)}")
            raise

    async def halt(self, reason: str, tell: bool = True) -> None:
        """Nothing is sent or waited for any more; batches run on at the provider."""
        if self.stopped:
            return
        self.stopped = reason
        if tell:
            with contextlib.suppress(HeadgateError):  # the governor is gone: that is why, then
                await self.governor.stop(self.context.alias, reason)
        current = asyncio.current_task()
        for task in self._tasks - {current}:
            task.cancel()

    async def end(self) -> None:
        """Cancel what still runs."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def watch(self, every_s: float) -> None:
        """Report every so often, for as long as the lane lives."""
        while not self.stopped:
            await asyncio.sleep(min(REPORT_S, every_s))
            await self.report()

    async def report(self) -> None:
        """Tell the totals; hear of a stop."""
        stopped = await self.governor.report(self.context.alias, self._source, self._counts)
        if stopped:
            await self.halt(stopped, tell=False)

    async def learn(self, excess: Excess) -> None:
        """Results have shown this much beyond their bounds; the default asks what is known."""
        self.terms = await self.governor.learn(self.context.alias, excess)

    def count(self, **counts: float) -> None:
        """Add to the totals."""
        self._counts = replace(self._counts, **{name: getattr(self._counts, name) + n for name, n in counts.items()})

    def count_answer(self, answer: Answer) -> None:
        """Add one settled row."""
        self.count(
            **{str(answer.kind): 1},
            prompt_tokens=answer.prompt_tokens or 0,
            completion_tokens=answer.completion_tokens or 0,
            cost_usd=answer.cost_usd,
            lost_usd=answer.lost_usd,
        )
