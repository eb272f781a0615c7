"""What an API lane keeps of an answer once its text is in the journal, and its row of progress."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.journal.rows import RANKS, Answer
from jobs.lanes.base import LaneContext, RowHead
from jobs.lanes.chat import JsonObject, build_request


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a block with ASK_COLUMNS. Its texts stay in the block until they are sent: many rows wait."""

    block: pa.Table
    place: int
    head: RowHead
    """Without the answer key: its request is made when it is sent."""

    def request(self, context: LaneContext) -> JsonObject:
        """The body to send. Raises ValueError where the row makes none."""
        messages, body = (self.block[name][self.place].as_py() for name in ("messages", "body"))
        return build_request(
            context.model,
            context.alias,
            context.sampling,
            context.response_format,
            json.loads(messages),
            json.loads(body) if body else None,
        )


def rows_of(block: pa.Table, places: NDArray[np.int64]) -> Iterator[Row]:
    """The rows of a block at these places, in their order."""
    columns = (block[name].take(pa.array(places)).to_pylist() for name in ("row_key", "bucket", "sample"))
    for place, row_key, bucket, sample in zip(places.tolist(), *columns, strict=True):
        yield Row(block, place, RowHead(row_key, bucket, bool(sample)))


COUNTED = np.dtype(
    [("row_key", "<i8"), ("rank", "<i4"), ("prompt_tokens", "<i4"), ("completion_tokens", "<i4"), ("cost_usd", "<f8")]
)
"""What is kept of an answer; `rank` is that of its kind (jobs.journal.rows.RANKS)."""
Counted = NDArray[np.void]
"""(k,) COUNTED."""


def counted_row(answer: Answer) -> tuple[int, int, int, int, float]:
    """A row of COUNTED."""
    counts = answer.prompt_tokens or 0, answer.completion_tokens or 0
    return answer.row_key, RANKS[answer.kind], *counts, answer.cost_usd


def progress(settled: Counted, n_rows: int) -> pa.Table:
    """A lane's output: one row of counts for a block of `n_rows`."""
    n_settled = int((settled["rank"] != RANKS["failed"]).sum())
    return pa.table(
        {
            "settled": [n_settled],
            "errors": [int((settled["rank"] != RANKS["answered"]).sum())],
            "open": [n_rows - n_settled],
            "empty": [int(((settled["rank"] == RANKS["rejected"]) & (settled["completion_tokens"] > 0)).sum())],
            **{name: [settled[name].sum()] for name in ("prompt_tokens", "completion_tokens", "cost_usd")},
        }
    )
