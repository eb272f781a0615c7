"""The columns of the input: their names."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import InputError, StoreError
from jobs.route.score.files import file_format
from jobs.route.score.records import read_records
from jobs.spec.sections import InputSpec
from jobs.storage.filesystems import filesystem_of, storage_errors
from jobs.storage.manifest import InputFile


def columns_of(file: InputFile, spec: InputSpec, peek: int = 100) -> list[str]:
    """Column names of a file: of its schema, or those seen in its first rows."""
    if file_format(file.uri, spec.format) == "parquet":
        return list(_schema(file).names)
    names: dict[str, None] = {}
    rows = 0
    for _, record in zip(range(peek), read_records(file, spec, None), strict=False):
        names |= dict.fromkeys(record.columns)
        rows += 1
    if not names:
        what = f"none of the first {rows} lines can be read" if rows else "it holds no rows; there is nothing to answer"
        raise InputError(f"input.path: {file.uri}: {what}")
    return list(names)


def _schema(file: InputFile) -> pa.Schema:
    try:
        with storage_errors(file.uri, "reading input"):
            fs, path = filesystem_of(file.uri)
            return pq.read_schema(path, filesystem=fs)
    except StoreError as error:
        raise InputError(f"input.path: {error}") from None
