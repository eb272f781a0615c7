"""The row of the journal: what one prompt came to with one model, as a dataclass and as an Arrow schema.

`one_per_key` is the rule by which several rows of one key become one: the journal may hold a key more than once (a
failed try, then an answer), and no dollar of it may vanish. O(n log n), 60 bytes a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import pyarrow as pa

Kind = Literal["answered", "rejected", "failed"]
"""answered, rejected: final, concerns the row. failed: open, asked again by the next run."""
RANKS = {"answered": 0, "rejected": 1, "failed": 2}

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
    purpose: Literal["answer", "shadow"] = "answer"
    settled_at: float = 0.0
    """Seconds since the epoch; 0: the time of the append."""
    gpu_s: float | None = None


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


DECIDING_COLUMNS = ("row_key", "bucket", "kind", "cost_usd", "lost_usd", "attempts", "settled_at")
"""What `one_per_key` needs, and the order of a journal's rows."""


def one_per_key(table: pa.Table) -> pa.Table:
    """The row of each row_key that counts; the others' dollars are in its lost_usd, their attempts in its attempts.

    Needs row_key, kind, cost_usd, lost_usd, attempts, settled_at. Order of the result: by row_key. O(n log n).
    """
    if not table.num_rows:
        return table
    keys = table["row_key"].to_numpy()
    kinds = table["kind"].combine_chunks().dictionary_encode()
    if isinstance(kinds, pa.ChunkedArray):
        kinds = kinds.combine_chunks()
    ranks = np.array([RANKS[kind] for kind in kinds.dictionary.to_pylist()])[kinds.indices.to_numpy()]
    order = np.lexsort((table["settled_at"].to_numpy(), ranks, keys))
    starts = np.flatnonzero(np.r_[True, np.diff(keys[order]) != 0])
    winners = order[starts]
    result = table.take(pa.array(winners))
    if len(winners) == len(order):
        return result
    cost, lost = table["cost_usd"].to_numpy()[order], table["lost_usd"].to_numpy()[order]
    total = np.add.reduceat(cost + lost, starts)
    attempts = np.add.reduceat(table["attempts"].to_numpy()[order].astype(np.int64), starts)
    # Only where there are losers: (cost + lost) - cost is not lost to the last bit.
    alone = np.diff(np.r_[starts, len(order)]) == 1
    summed = np.where(alone, lost[starts], np.maximum(total - cost[starts], 0.0))
    for name, values in (("lost_usd", summed), ("attempts", attempts.astype(np.int32))):
        place = result.schema.get_field_index(name)
        result = result.set_column(place, result.schema.field(name), pa.array(values))
    return result
