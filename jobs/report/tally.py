"""Where a run stands, from the governor's counts: rows done, rates, time to go, dollars at the end.

Rates are exponentially weighted over `RATE_WINDOW_S`, per model, because a weak lane at 1,000 rows/s says nothing about a
strong one at 5; lanes run side by side, so the time to go is that of the slowest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

RATE_WINDOW_S = 15.0
"""Time constant of the smoothed rate: settled rows arrive in bursts of one journal segment (2 s)."""
ROWS_TO_PROJECT = 20
"""Settled rows of a model before its own cost per row is believed over the plan's."""


class Rate:
    """Rows per second, exponentially weighted; None until something happened.

    The weights are normalised by what was seen so far, so the first seconds are not biased to 0.
    """

    def __init__(self, window_s: float = RATE_WINDOW_S) -> None:
        self.window_s = window_s
        self._rows = self._seconds = 0.0
        self._last: tuple[float, float] | None = None

    def add(self, now_s: float, total: float) -> None:
        """`total` rows were done at `now_s`. The first call sets the start: a resumed run's old rows do not count."""
        if self._last is not None:
            passed = now_s - self._last[0]
            if passed <= 0:
                return
            keep = math.exp(-passed / self.window_s)
            self._rows = self._rows * keep + max(0.0, total - self._last[1])
            self._seconds = self._seconds * keep + passed
        self._last = (now_s, total)

    @property
    def per_second(self) -> float | None:
        return self._rows / self._seconds if self._rows > 1e-9 and self._seconds > 0 else None


class Tally:
    """Takes one state after the other; see `Progress` for what is in one."""

    def __init__(self, total_rows: int, models: Sequence[str]) -> None:
        self.total_rows = total_rows
        self.models = list(models)
        self.stage: str | None = None
        self._state: Mapping[str, Any] = {}
        self._rates: dict[str, Rate] = {}

    def take(self, state: Mapping[str, Any], now_s: float) -> bool:
        """The counts at `now_s`. True where a new stage has begun."""
        self._state = state
        stage = self.job.get("stage")
        new_stage = stage != self.stage
        if new_stage:
            self.stage, self._rates = stage, {}
        for name in ["", *self.lanes]:
            done = self.counts[0] if not name else self.lanes[name].get("settled", 0)
            self._rates.setdefault(name, Rate()).add(now_s, done)
        return bool(new_stage)

    @property
    def job(self) -> Mapping[str, Any]:
        """What is said of the job as a whole."""
        return self._state.get("job") or {}

    @property
    def lanes(self) -> dict[str, Mapping[str, Any]]:
        """What is said of each model, cheapest first."""
        given = self._state.get("models") or {}
        order = [name for name in self.models if name in given] + [name for name in given if name not in self.models]
        return {name: given[name] for name in order}

    @property
    def counts(self) -> tuple[int, int]:
        """(rows done, rows in all) of this stage."""
        todo = sum(lane.get("todo") or 0 for lane in self.lanes.values())
        if todo:
            return sum(lane.get("settled") or 0 for lane in self.lanes.values()), todo
        return self.job.get("done") or 0, self.total_rows

    def rate(self, name: str = "") -> float | None:
        """Rows a second of a model, "" for all of them."""
        return self._rates[name].per_second if name in self._rates else None

    def eta_s(self) -> float | None:
        """Seconds to go: the slowest lane's, None while a lane with rows left has no rate yet."""
        lanes = {
            n: (lane.get("todo") or 0) - (lane.get("settled") or 0)
            for n, lane in self.lanes.items()
            if lane.get("todo")
        }
        if not lanes:
            done, total = self.counts
            if not total:
                return None
            lanes = {"": total - done}
        waits = [self._wait_s(name, left) for name, left in lanes.items()]
        return max((wait for wait in waits if wait is not None), default=0.0) if None not in waits else None

    def lane_eta_s(self, name: str) -> float | None:
        """Seconds until this lane has answered its rows; None while it has no rate yet."""
        lane = self.lanes[name]
        return self._wait_s(name, (lane.get("todo") or 0) - (lane.get("settled") or 0))

    def _wait_s(self, name: str, left: int) -> float | None:
        if left <= 0:
            return 0.0
        rate = self.rate(name)
        return None if rate is None or left / rate > 1e8 else left / rate

    def projected_usd(self) -> float | None:
        """Dollars at the end: each model's cost per settled row times its rows; the plan's word until that is known."""
        total = 0.0
        for lane in self.lanes.values():
            todo, settled = lane.get("todo") or 0, lane.get("settled") or 0
            if settled < min(ROWS_TO_PROJECT, todo):
                return self.job.get("planned_usd")
            total += (lane.get("cost_usd") or 0.0) * (todo / settled if settled else 0.0)
        return total if self.lanes else self.job.get("planned_usd")

    def sum_of(self, field: str) -> float:
        """Over all models; what is not told is 0."""
        return sum(lane.get(field) or 0 for lane in self.lanes.values())
