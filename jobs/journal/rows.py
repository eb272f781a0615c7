"""The row of the journal: what one prompt came to with one model, as a dataclass and as an Arrow schema.

The journal may hold a key more than once (a failed try, then an answer), and no dollar of it may vanish. `one_per_key`
is the rule by which several rows of one key become one; `settle` is the same rule over the few columns that decide and
cost, for all keys of a run at once: O(n log n), 34 bytes a row and 16 more while it sorts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Kind = Literal["answered", "rejected", "failed"]
"""answered, rejected: final, concerns the row. failed: open, asked again by the next run."""
RANKS = {"answered": 0, "rejected": 1, "failed": 2}
Purpose = Literal["answer", "shadow"]
PURPOSES = get_args(Purpose)

ANSWER_SCHEMA = pa.schema(
    [
        pa.field("row_key", pa.int64(), nullable=False),
        pa.field("bucket", pa.int32(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("purpose", pa.string(), nullable=False),
        pa.field("answer_key", pa.binary(16), nullable=False),
        pa.field("generated_text", pa.string()),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("completion_tokens", pa.int32()),
        pa.field("cached_tokens", pa.int32()),
        pa.field("reasoning_tokens", pa.int32()),
        pa.field("token_source", pa.string(), nullable=False),
        pa.field("cost_usd", pa.float64(), nullable=False),
        pa.field("lost_usd", pa.float64(), nullable=False),
        pa.field("latency_s", pa.float32(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("settled_at", pa.float64(), nullable=False),
        pa.field("gpu_s", pa.float32()),
        pa.field("mean_logprob", pa.float32()),
        pa.field("min_logprob", pa.float32()),
    ]
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one row came to with one model. Field for field a row of ANSWER_SCHEMA."""

    row_key: int
    bucket: int
    kind: Kind
    answer_key: bytes
    """16 bytes."""
    generated_text: str | None = None
    """None where there is none; "" is an answer."""
    finish_reason: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    """Of the prompt tokens."""
    reasoning_tokens: int | None = None
    """Of the completion tokens."""
    token_source: Literal["provider", "estimated", "bound", ""] = ""
    cost_usd: float = 0.0
    """Dollars of the answer that counts."""
    lost_usd: float = 0.0
    """Dollars of the row's attempts that brought nothing: an upper bound where token_source is "bound"."""
    latency_s: float = 0.0
    """Of the last attempt."""
    attempts: int = 1
    error: str = ""
    """One line; "" when all is well."""
    purpose: Purpose = "answer"
    settled_at: float = 0.0
    """Seconds since the epoch; 0: the time of the append."""
    gpu_s: float | None = None
    mean_logprob: float | None = None
    """Natural logarithm, over the answer's tokens; None where the engine was not asked for it, or did not tell."""
    min_logprob: float | None = None


FIELDS = tuple(field.name for field in fields(Answer))


def clean(answer: Answer, now: float) -> Answer:
    """A time where there is none, and no lone surrogates, which JSON can carry and Parquet cannot."""
    values = {name: getattr(answer, name) for name in FIELDS}
    values["settled_at"] = answer.settled_at or now
    for name in ("generated_text", "error", "finish_reason"):
        if isinstance(values[name], str) and not values[name].isascii():
            values[name] = values[name].encode("utf-8", "replace").decode("utf-8")
    return Answer(**values)


def answers_table(rows: Sequence[Answer]) -> pa.Table:
    """ANSWER_SCHEMA table of `rows`, sorted by (bucket, row_key), its buckets in the metadata."""
    ordered = sorted(rows, key=lambda row: (row.bucket, row.row_key))
    columns = [
        pa.array([getattr(row, name) for row in ordered], ANSWER_SCHEMA.field(name).type)
        for name in ANSWER_SCHEMA.names
    ]
    buckets = ",".join(str(bucket) for bucket in sorted({row.bucket for row in ordered}))
    return pa.Table.from_arrays(columns, schema=ANSWER_SCHEMA.with_metadata({"buckets": buckets}))


def completed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The columns of `schema`, null where the segment is of a version that did not have them yet."""
    if batch.schema.names != schema.names:
        arrays = [
            batch[field.name] if field.name in batch.schema.names else pa.nulls(len(batch), field.type)
            for field in schema
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)
    return batch.replace_schema_metadata(None)


DECIDING_COLUMNS = ("row_key", "bucket", "kind", "cost_usd", "lost_usd", "attempts", "settled_at")
"""What `one_per_key` needs, and the order of a journal's rows."""


def one_per_key(table: pa.Table) -> pa.Table:
    """The row of each row_key that counts; the others' dollars are in its lost_usd, their attempts in its attempts.

    Needs row_key, kind, cost_usd, lost_usd, attempts, settled_at. Order of the result: by row_key. O(n log n).
    """
    if not table.num_rows:
        return table
    keys = table["row_key"].to_numpy()
    found = _winners(keys, ranks_of(table["kind"]), table["settled_at"].to_numpy())
    result = table.take(pa.array(found.rows))
    if not len(found.losers):
        return result
    lost = found.lost_usd(table["cost_usd"].to_numpy(), table["lost_usd"].to_numpy())
    attempts = result["attempts"].to_numpy().copy()
    np.add.at(attempts, found.beaten_by, table["attempts"].to_numpy()[found.losers])
    for name, values in (("lost_usd", lost), ("attempts", attempts)):
        place = result.schema.get_field_index(name)
        result = result.set_column(place, result.schema.field(name), pa.array(values))
    return result


def ranks_of(kinds: pa.ChunkedArray | pa.Array) -> NDArray[np.int8]:
    """RANKS of a column of kinds."""
    return _codes(kinds, RANKS)


def purposes_of(purposes: pa.ChunkedArray | pa.Array) -> NDArray[np.int8]:
    """Place in PURPOSES of a column of purposes."""
    return _codes(purposes, {purpose: code for code, purpose in enumerate(PURPOSES)})


def _codes(column: pa.ChunkedArray | pa.Array, codes: dict[str, int]) -> NDArray[np.int8]:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    table = np.array([codes[value] for value in column.dictionary.to_pylist()], np.int8)
    return np.asarray(table[column.indices.to_numpy()]) if len(column) else np.empty(0, np.int8)


@dataclass(frozen=True, slots=True)
class Settlements:
    """What each key of one model came to, by the rule of `one_per_key`. Legend: k keys."""

    row_key: NDArray[np.int64]
    """(k,) Sorted, each once."""
    rank: NDArray[np.int8]
    """(k,) Of its kind, see RANKS."""
    purpose: NDArray[np.int8]
    """(k,) Place in PURPOSES."""
    cost_usd: NDArray[np.float64]
    lost_usd: NDArray[np.float64]
    """(k,) Its own, and all dollars of the key's other rows."""


SETTLING_COLUMNS = {
    "row_key": np.int64, "rank": np.int8, "purpose": np.int8, "cost_usd": np.float64, "lost_usd": np.float64,
    "settled_at": np.float64,
}  # fmt: skip
"""What `settle` needs, and as what."""


class Columns:
    """Columns that grow, piece by piece. Twice as large when they are full, of which the unused part costs no memory."""

    def __init__(self, types: Mapping[str, Any]) -> None:
        self._arrays: dict[str, NDArray[Any]] = {name: np.empty(0, kind) for name, kind in types.items()}
        self._rows = 0

    def add(self, piece: Mapping[str, NDArray[Any]]) -> None:
        """More rows: an array for each column."""
        end = self._rows + len(next(iter(piece.values())))
        for name, values in piece.items():
            array = self._arrays[name]
            if end > len(array):
                self._arrays[name] = np.empty(max(end, 2 * len(array)), array.dtype)
                self._arrays[name][: self._rows] = array[: self._rows]
            self._arrays[name][self._rows : end] = values
        self._rows = end

    def pop(self, name: str) -> NDArray[Any]:
        """A whole column, kept here no longer."""
        return self._arrays.pop(name)[: self._rows]


def settle(rows: Columns) -> Settlements:
    """All rows of one model, in SETTLING_COLUMNS, as one entry per key. Takes the columns out of `rows`, to save memory."""
    keys, ranks = rows.pop("row_key"), rows.pop("rank")
    found = _winners(keys, ranks, rows.pop("settled_at"))
    keys, ranks, purposes = keys[found.rows], ranks[found.rows], rows.pop("purpose")[found.rows]
    cost = rows.pop("cost_usd")
    lost = found.lost_usd(cost, rows.pop("lost_usd"))
    return Settlements(keys, ranks, purposes, cost[found.rows], lost)


@dataclass(frozen=True, slots=True)
class _Winners:
    """Which rows count. Legend: n rows, k keys; k is nearly n."""

    rows: NDArray[np.int64]
    """(k,) the row of each key that counts, by key."""
    losers: NDArray[np.int64]
    """(n - k,) the others."""
    beaten_by: NDArray[np.int64]
    """(n - k,) each loser's place in `rows`."""

    def lost_usd(self, cost: NDArray[np.float64], lost: NDArray[np.float64]) -> NDArray[np.float64]:
        """(k,) dollars of each key but the cost of its winner. cost, lost: (n,)."""
        total = lost[self.rows]
        np.add.at(total, self.beaten_by, cost[self.losers] + lost[self.losers])
        return total


def _winners(keys: NDArray[np.int64], ranks: NDArray[np.int8], settled_at: NDArray[np.float64]) -> _Winners:
    """Few keys have several rows, so only those are sorted by more than the key."""
    order = np.argsort(keys, kind="stable")
    new = np.ones(len(order), bool)
    ordered = keys[order]
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    del ordered
    others = np.flatnonzero(~new)
    if not len(others):
        return _Winners(order, others, others)
    shared = ~new
    shared[:-1] |= ~new[1:]
    rows = order[shared]
    order[shared] = rows[np.lexsort((settled_at[rows], ranks[rows], keys[rows]))]
    # A loser at place p with i losers before it, itself counted, has p - i winners before its own.
    return _Winners(order[new], order[others], others - np.arange(1, len(others) + 1))
