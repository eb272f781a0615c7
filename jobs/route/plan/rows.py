"""The columns of scored/ that planning looks at, as arrays: some 60 bytes a row, all rows in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.route.score.entries import Part
from jobs.route.score.scored import matrix_of, read_scored
from jobs.storage.store import Store

COLUMNS = ["row_key", "row", "bucket", "content_key", "id_key", "prompt_bytes", "input_error", "predicted"]


@dataclass(frozen=True, slots=True)
class Rows:
    """What planning needs of every row, in input order. Legend: n rows, m models."""

    row_key: NDArray[np.int64]
    bucket: NDArray[np.int32]
    content_key: NDArray[Any]
    id_key: NDArray[Any]
    prompt_bytes: NDArray[np.int64]
    error: NDArray[np.bool_]
    predicted: NDArray[np.float32]
    """(n, m); NaN where the row has an error."""
    raw: NDArray[np.float32] | None = None
    """(n, m) what the router said before a pilot recalibrated it: orders the ties that calibration makes."""


def read_rows(store: Store, parts: Sequence[Part]) -> Rows:
    """The planning columns of scored/, in input order."""
    table = read_scored(store, parts, COLUMNS)
    table = table.take(pc.sort_indices(table["row"]))
    return Rows(
        row_key=table["row_key"].to_numpy(),
        bucket=table["bucket"].to_numpy(),
        content_key=_key_pairs(table["content_key"]),
        id_key=_key_pairs(table["id_key"]),
        prompt_bytes=table["prompt_bytes"].to_numpy().astype(np.int64),
        error=pc.not_equal(table["input_error"], "").to_numpy(),
        predicted=matrix_of(table["predicted"]),
    )


def _key_pairs(column: pa.ChunkedArray) -> NDArray[Any]:
    """(n, 2) int64 of a column of 16-byte keys."""
    array = column.combine_chunks()
    raw = np.frombuffer(array.buffers()[1], np.int64)
    return raw[2 * array.offset : 2 * (array.offset + len(array))].reshape(-1, 2)
