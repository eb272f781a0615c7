"""Where a run stands, from the governor's counts: rows done, rates, time to go, dollars at the end.

Rates are exponentially weighted over `RATE_WINDOW_S`, per model, because a weak lane at 1,000 rows/s says nothing about a
strong one at 5; lanes run side by side, so the time to go is that of the slowest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

RATE_WINDOW_S = 15.0
"""Time constant of the smoothed rate: settled rows arrive in bursts of one journal segment (2 s)."""
ROWS_TO_PROJECT = 20
"""Settled rows of a model before its own cost per row is believed over the plan's."""


@dataclass(frozen=True, slots=True)
class JobCounts:
    """What is said of the job as a whole."""

    stage: str | None = None
    done: int = 0
    """Rows done in a stage without lanes."""
    cap_usd: float | None = None
    planned_usd: float | None = None
    waiting: str = ""
    """Of a stage without lanes, as in LaneCounts."""


@dataclass(frozen=True, slots=True)
class LaneCounts:
    """What is said of one model while it answers."""

    todo: int = 0
    """All rows of the model, settled ones included."""
    settled: int = 0
    errors: int = 0
    """Of the settled."""
    empty: int = 0
    """Of the errors: answers that are paid for and say nothing."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    lost_usd: float = 0.0
    in_flight: int = 0
    reserved_usd: float | None = None
    """None where it is not told."""
    requests_per_minute: float | None = None
    """The limit in force, None for none."""
    paused_s: float = 0.0
    """Left of the pause that a 429 asked for."""
    stopped: str = ""
    """Why, "" for a lane that goes on."""
    waiting: str = ""
    """`waits 2:10 for 2 GPUs`; "" for a lane that runs."""


@dataclass(frozen=True, slots=True)
class LiveCounts:
    """One picture of a run."""

    job: JobCounts = JobCounts()
    lanes: Mapping[str, LaneCounts] = field(default_factory=dict)


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
    """Takes one picture after the other."""

    def __init__(self, total_rows: int, models: Sequence[str]) -> None:
        self.total_rows = total_rows
        self.models = list(models)
        self.stage: str | None = None
        self._given = LiveCounts()
        self._rates: dict[str, Rate] = {}

    def take(self, given: LiveCounts, now_s: float) -> bool:
        """The counts at `now_s`. True where a new stage has begun."""
        self._given = given
        stage = given.job.stage
        new_stage = stage != self.stage
        if new_stage:
            self.stage, self._rates = stage, {}
        for name in ["", *self.lanes]:
            done = self.counts[0] if not name else self.lanes[name].settled
            self._rates.setdefault(name, Rate()).add(now_s, done)
        return new_stage

    @property
    def job(self) -> JobCounts:
        return self._given.job

    @property
    def lanes(self) -> dict[str, LaneCounts]:
        """Cheapest first."""
        given = self._given.lanes
        order = [name for name in self.models if name in given] + [name for name in given if name not in self.models]
        return {name: given[name] for name in order}

    @property
    def counts(self) -> tuple[int, int]:
        """(rows done, rows in all) of this stage."""
        todo = sum(lane.todo for lane in self.lanes.values())
        if todo:
            return sum(lane.settled for lane in self.lanes.values()), todo
        return self.job.done, self.total_rows

    def rate(self, name: str = "") -> float | None:
        """Rows a second of a model, "" for all of them."""
        return self._rates[name].per_second if name in self._rates else None

    def eta_s(self) -> float | None:
        """Seconds to go: the slowest lane's, None while a lane with rows left has no rate yet."""
        lanes = {name: lane.todo - lane.settled for name, lane in self.lanes.items() if lane.todo}
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
        return self._wait_s(name, lane.todo - lane.settled)

    def _wait_s(self, name: str, left: int) -> float | None:
        if left <= 0:
            return 0.0
        rate = self.rate(name)
        return None if rate is None or left / rate > 1e8 else left / rate

    def projected_usd(self) -> float | None:
        """Dollars at the end: each model's cost per settled row times its rows; the plan's word until that is known."""
        total = 0.0
        for lane in self.lanes.values():
            if lane.settled < min(ROWS_TO_PROJECT, lane.todo):
                return self.job.planned_usd
            total += lane.cost_usd * (lane.todo / lane.settled if lane.settled else 0.0)
        return total if self.lanes else self.job.planned_usd

    def sum_of(self, name: str) -> float:
        """Of a field of `LaneCounts` over all models; what is not told is 0."""
        return sum(getattr(lane, name) or 0 for lane in self.lanes.values())
