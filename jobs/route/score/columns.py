"""The columns of the input: their names, the Arrow types that they keep on their way to responses/, and values made to fit.

Files without a schema (JSONL, CSV) are judged by their first rows, so a later value may not fit: that is its row's error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import InputError, StoreError
from jobs.route.score.files import file_format
from jobs.route.score.records import read_records
from jobs.spec.sections import InputSpec
from jobs.storage.filesystems import filesystem_of, storage_errors
from jobs.storage.manifest import InputFile
from routing.text import whole


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


def column_types(file: InputFile, spec: InputSpec, names: Iterable[str], peek: int = 1000) -> dict[str, pa.DataType]:
    """Arrow types that `names` keep on their way to responses/: the Parquet schema's, or those of the first rows.

    Text stays text, whole numbers int64, numbers float64, truth values bool; anything else (lists, objects, mixtures) becomes
    JSON text.
    """
    if file_format(file.uri, spec.format) == "parquet":
        schema = _schema(file)
        return {name: _plain_type(schema.field(name).type) for name in names}
    seen: dict[str, set[type]] = {name: set() for name in names}
    for _, record in zip(range(peek), read_records(file, spec, None), strict=False):
        for name, kinds in seen.items():
            kinds.add(type(record.columns.get(name)))
    return {name: _type_of(kinds - {type(None)}) for name, kinds in seen.items()}


def _plain_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else pa.string() if pa.types.is_large_string(kind) else kind


def _type_of(kinds: set[type]) -> pa.DataType:
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    if kinds and kinds <= {int, float}:
        return pa.float64()
    return pa.string()


def fit(value: Any, kind: pa.DataType) -> Any:
    """`value` as a column of type `kind` holds it. Raises ValueError where it cannot."""
    if value is None:
        return None
    if pa.types.is_string(kind):
        return whole(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
    try:
        return pa.scalar(value, type=kind).as_py() if not pa.types.is_nested(kind) else value
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise ValueError(f"{str(value)[:40]!r} is not {kind}") from error
