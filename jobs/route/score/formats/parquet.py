"""Parquet: batches of columns. What a column holds that is no text concerns only the row, and only where the prompt needs it."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.fs as pafs
import pyarrow.parquet as pq

from jobs.errors import InputError
from jobs.route.score.formats.arrow_values import python_values
from jobs.route.score.formats.record import Record

READ_ROWS = 4096


def read_parquet(fs: pafs.FileSystem, path: str, columns: list[str] | None) -> Iterator[Record]:
    with fs.open_input_file(path) as source:
        parquet = pq.ParquetFile(source)
        names = parquet.schema_arrow.names
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"input.path: {path} has two columns {twice!r}; rename one of them")
        wanted = [c for c in columns if c in names] if columns is not None else names
        for batch in parquet.iter_batches(batch_size=READ_ROWS, columns=wanted):
            lists = [python_values(batch.column(name)) for name in wanted]
            if not lists:
                yield from (Record({}) for _ in range(batch.num_rows))
            for at, row in enumerate(zip(*lists, strict=True)):
                yield Record(dict(zip(wanted, row, strict=True)), stored=(batch, at))
