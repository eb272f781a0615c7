"""What is shown while dollars are spent: the governor's live counts, put before the people who wait."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pyarrow as pa

from jobs.money.driver import Money
from jobs.placement.turns import Placement
from jobs.report.progress import Progress
from jobs.report.tally import JobCounts, LaneCounts, LiveCounts

SHOW_S = 0.5
"""Least time between two pictures."""


@dataclass(frozen=True, slots=True)
class SettledBatch:
    """Rows that a lane has settled."""

    model: str
    counts: pa.Table
    """A row each, or a block's sums: fields of `jobs.money.messages.LaneSums`, as far as the lane tells them."""


class Live:
    """Takes each batch that a lane has settled (None between them), and shows where all stands."""

    def __init__(self, money: Money, progress: Progress, placement: Placement) -> None:
        self._money, self._progress, self._placement, self._shown_s = money, progress, placement, 0.0

    def __call__(self, settled: SettledBatch | None) -> None:
        money = self._money
        if settled is not None:
            money.add(settled.model, settled.counts)
        if time.monotonic() - self._shown_s < SHOW_S:
            return
        self._shown_s = time.monotonic()
        money.refresh()
        job = JobCounts("answer", cap_usd=money.cap, planned_usd=money.planned_usd)
        waiting = self._placement.waiting()
        lanes = {name: self._lane(name, waiting.get(name, "")) for name in money.todo if money.todo[name]}
        self._progress.update(LiveCounts(job, lanes))

    def _lane(self, name: str, waiting: str) -> LaneCounts:
        known, sums = self._money.state.models[name], self._money.sums_of(name)
        return LaneCounts(
            # A running lane goes through with rows that a new cut has given to another one.
            todo=max(self._money.todo[name], sums.settled), settled=sums.settled, errors=sums.errors,
            prompt_tokens=sums.prompt_tokens, completion_tokens=sums.completion_tokens, cost_usd=sums.cost_usd,
            empty=sums.empty,
            lost_usd=known.totals.lost_usd, in_flight=known.totals.in_flight, reserved_usd=known.reserved_usd,
            requests_per_minute=known.requests_per_minute, paused_s=known.paused_s, stopped=known.stopped, waiting=waiting,
        )  # fmt: skip
