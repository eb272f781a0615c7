"""Parquet: batches of columns, a value at a time; a value that Python cannot hold costs its row alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from jobs.route.score.formats.record import NOT_UTF8, Record

READ_ROWS = 4096


def read_parquet(fs: pafs.FileSystem, path: str, columns: list[str] | None) -> Iterator[Record]:
    with fs.open_input_file(path) as source:
        parquet = pq.ParquetFile(source)
        names = parquet.schema_arrow.names
        wanted = [c for c in columns if c in names] if columns is not None else names
        for batch in parquet.iter_batches(batch_size=READ_ROWS, columns=wanted):
            lists = [_values(batch.column(i)) for i in range(batch.num_columns)]
            if not lists:
                yield from (Record({}) for _ in range(batch.num_rows))
            for row in zip(*lists, strict=True):
                columns_of_row = dict(zip(wanted, row, strict=True))
                bad = next((c for c, v in columns_of_row.items() if isinstance(v, bytes)), None)
                error = f"column {bad!r} is {NOT_UTF8}" if bad else ""
                beyond = [c for c, v in columns_of_row.items() if v is _BEYOND]
                if beyond:
                    error = error or f"column {beyond[0]!r} holds a date or time out of range"
                    columns_of_row |= dict.fromkeys(beyond)
                yield Record(columns_of_row, error)


def _values(column: pa.Array) -> list[Any]:
    """Python values; text that is not UTF-8 stays bytes, so that one bad row does not fail its batch."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        try:
            return list(column.to_pylist())
        except (ValueError, OverflowError):  # one value that Python cannot hold does not fail its batch either
            return [_value(scalar) for scalar in column]
    return [_text(v) for v in column.cast(pa.large_binary()).to_pylist()]


_BEYOND = object()
"""Stands for a value that Python cannot hold: a date after the year 9999."""


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):
        return _BEYOND


def _text(raw: bytes | None) -> str | bytes | None:
    if raw is None:
        return None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw
