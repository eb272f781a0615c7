"""The row of the journal: what one prompt came to with one model, as a dataclass and as an Arrow schema.

The journal may hold a key more than once (a failed try, then an answer); `jobs.journal.settling` says which row counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from routing.text import whole

Kind = Literal["answered", "rejected", "failed"]
"""answered, rejected: final, concerns the row; rejected with tokens is an answer that is paid for and says nothing. failed: open,
asked again by the next run."""
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

    @property
    def is_empty(self) -> bool:
        """A reply came and was paid for, and says nothing: final, and no refusal."""
        return self.kind == "rejected" and self.completion_tokens is not None


FIELDS = tuple(field.name for field in fields(Answer))


def clean(answer: Answer, now: float) -> Answer:
    """A time where there is none, and no lone surrogates, which JSON can carry and Parquet cannot."""
    values = {name: getattr(answer, name) for name in FIELDS}
    values["settled_at"] = answer.settled_at or now
    for name in ("generated_text", "error", "finish_reason"):
        if isinstance(values[name], str):
            values[name] = whole(values[name])
    return Answer(**values)


def empty_answers(table: pa.Table) -> pa.ChunkedArray:
    """Which rows of a journal's table (kind, completion_tokens) are `Answer.is_empty`."""
    return pc.and_(pc.equal(table["kind"], "rejected"), pc.is_valid(table["completion_tokens"]))


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
