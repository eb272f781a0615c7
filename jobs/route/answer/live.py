"""What is shown while dollars are spent: the governor's live counts, put before the people who wait."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pyarrow as pa

from jobs.money.driver import Money
from jobs.report.progress import Progress
from jobs.report.tally import Counts, JobCounts, LaneCounts

SHOW_S = 0.5
"""Least time between two pictures."""


@dataclass(frozen=True, slots=True)
class SettledBatch:
    """Rows that a lane has settled."""

    model: str
    counts: pa.Table
    """A row each, or a block's sums: `jobs.money.driver.COUNTS` as far as the lane tells them."""


class Live:
    """Takes each batch that a lane has settled (None between them), and shows where all stands."""

    def __init__(self, money: Money, progress: Progress) -> None:
        self._money, self._progress, self._shown_s = money, progress, 0.0

    def __call__(self, settled: SettledBatch | None) -> None:
        money = self._money
        if settled is not None:
            money.add(settled.model, settled.counts)
        if time.monotonic() - self._shown_s < SHOW_S:
            return
        self._shown_s = time.monotonic()
        money.refresh()
        job = JobCounts("answer", cap_usd=money.cap, planned_usd=money.bill.get("planned_usd"))
        self._progress.update(Counts(job, {name: self._lane(name) for name in money.todo if money.todo[name]}))

    def _lane(self, name: str) -> LaneCounts:
        """Live counts of one lane: the governor's where it knows more (it hears of every answer within a second)."""
        known, own = self._money.state["models"][name], self._money.counts[name]
        settled = known["answered"] + known["rejected"]
        told = known if settled >= own["settled"] else own
        settled = max(settled, int(own["settled"]))
        return LaneCounts(
            # A running lane goes through with rows that a new cut has given to another one.
            todo=max(self._money.todo[name], settled), settled=settled, errors=int(told["errors"]),
            prompt_tokens=int(told["prompt_tokens"]), completion_tokens=int(told["completion_tokens"]),
            cost_usd=told["cost_usd"], lost_usd=known["lost_usd"], in_flight=known["in_flight"],
            reserved_usd=known["reserved_usd"], requests_per_minute=known["requests_per_minute"],
            paused_s=known["paused_s"], stopped=known["stopped"],
        )  # fmt: skip
