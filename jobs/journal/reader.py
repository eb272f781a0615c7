"""Reads the journal of a run: what is settled, what it cost, and the answers themselves.

One row per row_key (`jobs.journal.settling.one_per_key`): `answered` before `rejected` before `failed`, the first answered
before later ones; what the others cost is added to the winner's `lost_usd`. Three ways, by what they hold in memory:
`settled`, `failed` and `by_kind` 9 bytes a row (17 while they sort), `settlements` and `spent` 34 bytes a row (50 while
they sort), `read` the rows asked for, two times over. Segment names carry their range of buckets, so that finding the
segments of a bucket is one listing. Cost: one pass over the columns needed; half a millisecond a segment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.errors import StoreError
from jobs.journal.rows import ANSWER_SCHEMA, PURPOSES, RANKS, completed, empty_answers
from jobs.journal.segments import Segment, Segments
from jobs.journal.settling import (
    DECIDING_COLUMNS,
    SETTLING_COLUMNS,
    Columns,
    Settlements,
    one_per_key,
    purposes_of,
    ranks_of,
    settle,
)
from jobs.storage.keys import is_among
from jobs.storage.store import Store

READ_THREADS = 16
READ_AHEAD, MERGED_AHEAD = 64, 4
"""Segments being read or waiting to be added."""
REREADS = 3
Piece = TypeVar("Piece")
Whole = TypeVar("Whole")
Gathered = tuple[Columns, dict[str, float]]
"""Rows, and session → dollars."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Dollars of one model in the journal."""

    cost_usd: float = 0.0
    lost_usd: float = 0.0
    by_purpose: dict[str, float] = field(default_factory=dict)
    """Purpose → cost_usd + lost_usd of its rows."""
    by_session: dict[str, float] = field(default_factory=dict)
    """Session → cost_usd + lost_usd that its segments hold, duplicates included: all that was paid under its grants."""


@dataclass(frozen=True, slots=True)
class ByKind:
    """Sorted row keys of one model, each in one of the three."""

    answered: NDArray[np.int64]
    rejected: NDArray[np.int64]
    failed: NDArray[np.int64]
    """Tried, and open."""


@dataclass(frozen=True, slots=True)
class _Where:
    """Which segments to read: of one model; "" and None do not narrow it down."""

    model: str
    buckets: tuple[int, ...] | None = None
    """Those that may hold rows of one of these."""
    session: str = ""
    writer: str = ""


class Journal:
    """Reads the committed segments of a run. Keeps none of it: every call looks at the store anew."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._segments = Segments(store)

    def segments(
        self, model: str, buckets: Iterable[int] | None = None, session: str = "", writer: str = ""
    ) -> list[str]:
        """A model's segments in name order: those that may hold one of `buckets`, of one session, of one writer.

        A writer's segments lose its name when they are merged, which happens at the next start of the run.
        """
        where = _Where(model, None if buckets is None else tuple(buckets), session, writer)
        return [segment.name for segment in self._visible(where)]

    def _visible(self, where: _Where) -> list[Segment]:
        wanted = None if where.buckets is None else np.unique(np.array(where.buckets, np.int64))
        found = []
        for segment in self._segments.visible(where.model):
            if where.session not in ("", segment.session) or where.writer not in ("", segment.writer):
                continue
            if wanted is not None:
                first = np.searchsorted(wanted, segment.low)
                if first == len(wanted) or wanted[first] > segment.high:
                    continue
            found.append(segment)
        return found

    def by_kind(self, model: str, session: str = "", writer: str = "") -> ByKind:
        """What became of every key. The light way to know what is settled."""

        def read(segment: Segment) -> list[dict[str, NDArray[Any]]]:
            batches = self._store.batches(segment.name, ["row_key", "kind"])
            return [{"row_key": batch["row_key"].to_numpy(), "rank": ranks_of(batch["kind"])} for batch in batches]

        def add(rows: Columns, segment: Segment, pieces: list[dict[str, NDArray[Any]]]) -> None:
            for piece in pieces:
                rows.add(piece)

        types = {"row_key": np.int64, "rank": np.int8}
        rows = self._gather(lambda: Columns(types), read, add, _Where(model, session=session, writer=writer))
        keys, ranks = rows.pop("row_key"), rows.pop("rank")
        answered, rejected, failed = (_unique(keys[ranks == rank]) for rank in RANKS.values())
        rejected = _without(rejected, answered)
        return ByKind(answered, rejected, _without(_without(failed, answered), rejected))

    def settled(self, model: str, session: str = "", writer: str = "") -> NDArray[np.int64]:
        """Sorted row keys that are answered or rejected."""
        found = self.by_kind(model, session, writer)
        return np.union1d(found.answered, found.rejected) if len(found.rejected) else found.answered

    def empty(self, model: str) -> NDArray[np.int64]:
        """Sorted row keys whose answer is paid for and says nothing: of those that are rejected."""
        table = self.read(model, None, ["row_key", "kind", "completion_tokens"])
        return np.sort(table.filter(empty_answers(table))["row_key"].to_numpy())

    def failed(self, model: str) -> NDArray[np.int64]:
        """Sorted row keys that were tried and are open."""
        return self.by_kind(model).failed

    def settlements(self, model: str, session: str = "", writer: str = "") -> Settlements:
        """What every key came to and cost."""
        return self._settle(model, session, writer)[0]

    def spent(self, model: str, session: str = "", writer: str = "") -> Spent:
        """What the model cost up to now (in one session, by one writer)."""
        found, by_session = self._settle(model, session, writer)
        paid = found.cost_usd + found.lost_usd
        by_purpose = np.bincount(found.purpose, paid, len(PURPOSES))
        return Spent(
            cost_usd=float(found.cost_usd.sum()),
            lost_usd=float(found.lost_usd.sum()),
            by_purpose={PURPOSES[code]: float(by_purpose[code]) for code in np.unique(found.purpose).tolist()},
            by_session=by_session,
        )

    def _settle(self, model: str, session: str, writer: str) -> tuple[Settlements, dict[str, float]]:
        """Every key of the segments, and session → dollars in them."""
        columns = ["row_key", "kind", "purpose", "cost_usd", "lost_usd", "settled_at"]

        def read(segment: Segment) -> list[dict[str, NDArray[Any]]]:
            return [
                {"rank": ranks_of(batch["kind"]), "purpose": purposes_of(batch["purpose"])}
                | {name: batch[name].to_numpy() for name in ("row_key", "cost_usd", "lost_usd", "settled_at")}
                for batch in self._store.batches(segment.name, columns)
            ]

        def add(found: Gathered, segment: Segment, pieces: list[dict[str, NDArray[Any]]]) -> None:
            rows, by_session = found
            for piece in pieces:
                rows.add(piece)
                paid = float(piece["cost_usd"].sum() + piece["lost_usd"].sum())
                by_session[segment.session] = by_session.get(segment.session, 0.0) + paid

        def empty() -> Gathered:
            return Columns(SETTLING_COLUMNS), {}

        rows, by_session = self._gather(empty, read, add, _Where(model, session=session, writer=writer))
        return settle(rows), by_session

    def read(
        self,
        model: str,
        buckets: Sequence[int] | int | None = None,
        columns: Sequence[str] | None = None,
        keys: NDArray[np.int64] | None = None,
    ) -> pa.Table:
        """One row per row_key of the given buckets (None: all), sorted by (bucket, row_key); see `one_per_key`.

        keys: only these.
        """
        wanted = list(columns or ANSWER_SCHEMA.names)
        needed = [name for name in ANSWER_SCHEMA.names if name in wanted or name in DECIDING_COLUMNS]
        schema = pa.schema([ANSWER_SCHEMA.field(name) for name in needed])
        of_buckets = None if buckets is None else np.unique(np.atleast_1d(np.asarray(buckets, np.int64)))
        of_rows = None if of_buckets is None else ("bucket", of_buckets)
        chosen = None if keys is None else pa.array(keys)

        def read(segment: Segment) -> list[pa.RecordBatch]:
            batches = self._store.batches(segment.name, needed, of_rows)
            if chosen is not None:
                batches = (batch.filter(pc.is_in(batch["row_key"], chosen)) for batch in batches)
            return [completed(batch, schema) for batch in batches if len(batch)]

        def add(found: list[pa.RecordBatch], segment: Segment, batches: list[pa.RecordBatch]) -> None:
            found += batches

        empty: Callable[[], list[pa.RecordBatch]] = list
        where = _Where(model, None if of_buckets is None else tuple(of_buckets.tolist()))
        found = self._gather(empty, read, add, where)
        table = one_per_key(pa.Table.from_batches(found, schema))
        return table.sort_by([("bucket", "ascending"), ("row_key", "ascending")]).select(wanted)

    def _gather(
        self,
        empty: Callable[[], Whole],
        read: Callable[[Segment], Piece],
        add: Callable[[Whole, Segment, Piece], None],
        where: _Where,
    ) -> Whole:
        """`read` of every segment, added up in their order; anew where a merge took segments away in the meantime."""
        for rest in reversed(range(REREADS)):
            segments = self._visible(where)
            whole = empty()
            try:
                for segment, piece in _in_order(read, segments):
                    add(whole, segment, piece)
            except StoreError:
                if not rest or set(segments) <= set(self._visible(where)):
                    raise
            else:
                return whole
        raise AssertionError("unreachable")


def _in_order(read: Callable[[Segment], Piece], segments: Sequence[Segment]) -> Iterator[tuple[Segment, Piece]]:
    """`read` of every segment in threads, not far ahead of who takes them; merged ones, which are large, a few at a time."""
    ahead: deque[tuple[Segment, Future[Piece]]] = deque()
    n_merged = 0
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for segment in segments:
            while len(ahead) >= READ_AHEAD or n_merged >= MERGED_AHEAD:
                first, future = ahead.popleft()
                n_merged -= int(first.merge > 0)
                yield first, future.result()
            ahead.append((segment, pool.submit(read, segment)))
            n_merged += int(segment.merge > 0)
        while ahead:
            first, future = ahead.popleft()
            yield first, future.result()


def _unique(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sorted, each once. In place."""
    keys.sort()
    new = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=new[1:])
    return keys if new.all() else keys[new]


def _without(keys: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """`keys` that are not among the sorted `others`."""
    if not len(keys) or not len(others):
        return keys
    return keys[~is_among(keys, others)]
