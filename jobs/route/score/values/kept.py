"""The kept columns of one shard, put together as its rows come, in a type of the shard's own.

Rows of a Parquet file are kept as the file has them: slices of its columns, no value of which goes through Python. Rows of files
without a schema get the type that their values ask for. Other shards may hold other types of the same column: the one type that
responses/ has is found when all are known (`jobs/route/account/column_types.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from jobs.route.score.formats.record import Record
from jobs.route.score.values.text import as_text, utf8
from jobs.route.score.values.widest import EXACT, Held, cast_to, plain, widest


@dataclass(slots=True)
class _Run:
    """Rows that follow each other: of a batch from `start` on, or Python values."""

    batch: pa.RecordBatch | None = None
    start: int = 0
    rows: int = 0
    row_bytes: int = 0
    """Of a batch: what a row of its kept columns takes."""
    values: list[tuple[Any, ...]] = field(default_factory=list)

    def column(self, name: str, place: int) -> pa.Array:
        if self.batch is None:
            return array_of([row[place] for row in self.values])
        if name not in self.batch.schema.names:
            return pa.nulls(self.rows)
        return plain(self.batch.column(name).slice(self.start, self.rows))


class KeptColumns:
    """Built once a shard; `add` every row in order."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._runs: list[_Run] = []
        self._rows = 0

    def add(self, record: Record) -> int:
        """Returns about how many bytes the row's values take."""
        self._rows += 1
        if not self.names:
            return 0
        last = self._runs[-1] if self._runs else None
        if record.stored is not None:
            batch, at = record.stored
            if last is None or last.batch is not batch or last.start + last.rows != at:
                size = sum(batch.column(name).nbytes for name in self.names if name in batch.schema.names)
                self._runs.append(last := _Run(batch, at, row_bytes=size // batch.num_rows))
            last.rows += 1
            return last.row_bytes
        if last is None or last.batch is not None:
            self._runs.append(last := _Run())
        last.rows += 1
        values = tuple(record.columns.get(name) for name in self.names)
        last.values.append(values)
        return sum(len(value) for value in values if isinstance(value, str))

    def column(self) -> pa.StructArray:
        """(rows,) the kept columns as the fields k0, k1, … of a struct."""
        if not self.names:
            return pa.array([{}] * self._rows, pa.struct([pa.field("none", pa.null())]))
        columns = [self._column(name, place) for place, name in enumerate(self.names)]
        return pa.StructArray.from_arrays(columns, [f"k{place}" for place in range(len(columns))])

    def _column(self, name: str, place: int) -> pa.Array:
        pieces = [run.column(name, place) for run in self._runs]
        kind = widest(map(Held.of, pieces))
        return pa.concat_arrays([cast_to(piece, kind) for piece in pieces])


def array_of(values: Sequence[Any]) -> pa.Array:
    """Python values of JSON or CSV in the type that holds them all as they are; lists, objects and mixtures as text."""
    kinds = {type(value) for value in values} - {type(None)}
    if not kinds:
        return pa.nulls(len(values))
    if kinds == {str}:
        return pa.array([None if value is None else utf8(value) for value in values], pa.string())
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds == {int}:
        found = [value for value in values if value is not None]
        for kind, low, high in ((pa.int64(), -(2**63), 2**63), (pa.uint64(), 0, 2**64)):
            if low <= min(found) and max(found) < high:
                return pa.array(values, kind)
    if kinds == {float} or (kinds == {int, float} and all(map(_is_exact_float, values))):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array([None if value is None else as_text(value) for value in values], pa.string())


def _is_exact_float(value: Any) -> bool:
    return not isinstance(value, int) or -EXACT <= value <= EXACT
