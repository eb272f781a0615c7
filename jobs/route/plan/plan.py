"""The plan as a table: its columns, its rows in scored/, and its folder in the run.

    scored/ → `Rows` (some 60 bytes a row, in memory) → jobs/route/plan/cut.py → `Assignments` → plan/NNNN/

Plans are numbered: another policy, price or cap is the same job planned again, and what is answered stays answered.
Legend: n rows of the input, m models in ladder order, k rows of the sample.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.route.plan.bill import Bill
from jobs.spec.job import JobSpec
from jobs.storage.manifest import Run, damaged, fingerprint, read_object
from jobs.storage.store import Store
from routing.upgrades.hull import RankBy


@dataclass(frozen=True, slots=True)
class Assignments:
    """The plan: which model answers which row. Columns of plan/NNNN/assignments.parquet."""

    row_key: NDArray[np.int64]
    bucket: NDArray[np.int32]
    leader: NDArray[np.int64]
    """Row key of the row that is asked for this one's group."""
    model: NDArray[np.int8]
    """Ladder index, -1 for rows that cannot be asked."""
    fold: NDArray[np.int8]
    """Index into routing.pilot.folds.FOLD_NAMES for rows of the sample, which every model answers; -1 for the others."""
    router_score: NDArray[np.float32]
    rank: NDArray[np.float64]
    cost_usd: NDArray[np.float64]
    """Expected; 0 for copies."""
    reason: NDArray[np.object_]
    error: NDArray[np.object_]

    @property
    def sample(self) -> NDArray[np.bool_]:
        return np.asarray(self.fold >= 0)

    def leaders_of(self, model: int) -> NDArray[np.int64]:
        """Sorted row keys to ask `model`: its own leaders, and those of the sample."""
        wanted = (self.model == model) | (self.sample & (self.model >= 0))
        return np.unique(self.leader[wanted])

    @property
    def shadow(self) -> NDArray[np.int64]:
        """Sorted leaders of the sample."""
        return np.unique(self.leader[self.sample & (self.model >= 0)])


@dataclass(frozen=True, slots=True)
class Sample:
    """The rows that every model answers."""

    row_key: NDArray[np.int64]
    """(k,)."""
    fold: NDArray[np.int8]
    """(k,) index into routing.pilot.folds.FOLD_NAMES."""
    quality: NDArray[np.float64] | None = None
    """(k, m) measured; NaN where it cannot be told. None before the pilot is answered."""
    rank_by: RankBy | None = None
    """The order of the cut that did best on it; None leaves the policy's own."""


@dataclass(frozen=True, slots=True)
class Paid:
    """What a run has settled and spent before it is cut again. Rows as in `Rows`; a group's answer is its leader's."""

    answered: NDArray[np.bool_]
    """(n, m)."""
    rejected: NDArray[np.bool_]
    """(n, m) Refused for good."""
    cost_usd: NDArray[np.float64]
    """(n, m) dollars of the answers."""
    lost_usd: NDArray[np.float64]
    """(m,) dollars that brought no answer."""
    stranded_usd: float
    """Granted to a process that died before it could say what it used."""
    moves: NDArray[np.bool_] | None = None
    """(n, m) Of `rejected`, what goes to the next model up whatever the cut says (None: all of it). The rest has its error for an
    answer."""

    @property
    def usd(self) -> float:
        return float(self.cost_usd.sum() + self.lost_usd.sum()) + self.stranded_usd


@dataclass(frozen=True, slots=True)
class WeakFirst:
    """What a cascade asks of the weak model before the cut."""

    asked: NDArray[np.bool_]
    """(n,) rows that it answers first."""
    samples_usd: float
    """Expected dollars of further answers to compare with, or what they came to."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A written plan."""

    number: int
    assignments: Assignments
    bill: Bill


def plan_fingerprint(run: Run, spec: JobSpec) -> str:
    """Changes where another plan would come out: the scored rows, the policy, the caps, the prices, the sample."""
    given = ((name, spec.models[name].price) for name in spec.names)
    # What is booked of a reply says nothing of what is planned.
    prices = {name: price and price.model_dump(exclude={"provider"}) for name, price in given}
    tiers = {name: spec.models[name].service_tier for name in spec.names}
    sample = spec.sample.model_dump() if spec.sample else None
    refused = [] if spec.on_refused == "error" else [spec.on_refused]  # plans of before had no such key
    context = {name: spec.models[name].context for name in spec.names}
    return fingerprint(
        [
            run.identity.fingerprints,
            spec.policy.model_dump(),
            spec.max_usd,
            prices,
            tiers,
            sample,
            spec.deduplicates(),
            context,
            *refused,
        ]
    )


def latest_plan(store: Store) -> tuple[int, Bill | None]:
    """(number, bill) of the newest finished plan; (0, None) where there is none."""
    numbers = sorted({int(name.split("/")[1]) for name in store.list("plan") if name.endswith("/bill.json")})
    return (numbers[-1], _read_bill(store, numbers[-1])) if numbers else (0, None)


def _read_bill(store: Store, number: int) -> Bill:
    """Raises StoreError where the file holds no bill."""
    name = f"plan/{number:04d}/bill.json"
    try:
        return Bill.from_json(read_object(store, name))
    except (KeyError, TypeError, AttributeError):
        raise damaged(store, name) from None


def load_plan(store: Store, number: int) -> Plan:
    """Read a finished plan."""
    folder = f"plan/{number:04d}"
    table = store.read_table(f"{folder}/assignments.parquet")
    names = [field.name for field in dataclasses.fields(Assignments)]
    columns = {name: table[name].combine_chunks().to_numpy(zero_copy_only=False) for name in names}
    return Plan(number, Assignments(**columns), _read_bill(store, number))


def write_plan(store: Store, number: int, assignments: Assignments, bill: Bill) -> Plan:
    """Write a plan, the bill last: a plan without a bill is not there."""
    folder = f"plan/{number:04d}"
    columns = {
        field.name: pa.array(getattr(assignments, field.name)).dictionary_encode()
        if field.name in ("reason", "error")
        else pa.array(getattr(assignments, field.name))
        for field in dataclasses.fields(Assignments)
    }
    store.write_table(f"{folder}/assignments.parquet", pa.table(columns))
    bill = dataclasses.replace(bill, number=number, made_at=time.time())
    store.create(f"{folder}/bill.json", json.dumps(bill.to_json(), indent=1, default=str).encode())
    return Plan(number, assignments, bill)
