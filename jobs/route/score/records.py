"""Reading prompts: Parquet, JSONL, CSV or OpenAI batch lines → requests, one row each, none lost.

A row that cannot be asked (null prompt, broken JSON, bytes that are not UTF-8) keeps its place and carries an `input_error`.
What is wrong with the set as a whole (missing column, unreadable file, nothing there) raises before anything is spent.

Cost: one pass in Python over the rows, some 10 µs each (JSON, template, BLAKE2b); small beside a router.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from jobs.errors import InputError, StoreError
from jobs.route.score.files import COMPRESSIONS, file_format
from jobs.spec.sections import InputSpec
from jobs.storage.filesystems import filesystem_of, storage_errors
from jobs.storage.manifest import InputFile

READ_ROWS = 4096
NOT_UTF8 = "not UTF-8"
InputColumns = dict[str, Any]
"""A row of the input: column → whatever its file holds there."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row as it stood in the input: its columns, or why it could not be read."""

    columns: InputColumns
    error: str = ""


def read_records(file: InputFile, spec: InputSpec, columns: list[str] | None) -> Iterator[Record]:
    """Rows of one file in order. `columns`: the ones needed (None: all). Raises InputError for an unreadable file."""
    kind = file_format(file.uri, spec.format)
    try:
        with storage_errors(file.uri, "reading input"):
            fs, path = filesystem_of(file.uri)
            yield from {"parquet": _read_parquet, "jsonl": _read_jsonl, "csv": _read_csv}[kind](fs, path, columns)
    except StoreError as error:
        raise InputError(f"input.path: {error}") from None


def _read_parquet(fs: pafs.FileSystem, path: str, columns: list[str] | None) -> Iterator[Record]:
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


def _open_text(fs: pafs.FileSystem, path: str) -> io.BufferedReader:
    compression = next((c for s, c in COMPRESSIONS.items() if path.endswith(s)), None)
    return io.BufferedReader(fs.open_input_stream(path, compression=compression, buffer_size=2**20), 2**20)


def _read_jsonl(fs: pafs.FileSystem, path: str, columns: list[str] | None) -> Iterator[Record]:
    with _open_text(fs, path) as stream:
        for number, line in enumerate(stream):
            if number == 0:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError:
                yield Record({}, f"the line is {NOT_UTF8}")
            except (ValueError, RecursionError):
                yield Record({}, "the line is not valid JSON")
            else:
                yield Record(row) if isinstance(row, dict) else Record({}, "the line is not a JSON object")


def _read_csv(fs: pafs.FileSystem, path: str, columns: list[str] | None) -> Iterator[Record]:
    csv.field_size_limit(2**31 - 1)  # a prompt may be far longer than csv's default of 128 KiB
    with _open_text(fs, path) as raw, io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape", newline="") as text:
        reader = csv.reader(text)
        try:
            header = next(reader, [])
            for row in reader if header else ():
                if not row:
                    continue
                if len(row) != len(header):
                    yield Record({}, f"the line has {len(row)} fields, the header {len(header)}")
                    continue
                bad = next((c for c, v in zip(header, row, strict=True) if not _is_utf8(v)), None)
                yield Record(dict(zip(header, row, strict=True)), f"column {bad!r} is {NOT_UTF8}" if bad else "")
        except csv.Error as error:
            raise InputError(f"input.path: {path}: not readable as CSV ({error})") from None


def _is_utf8(value: str) -> bool:
    return value.isascii() or not any("\udc80" <= c <= "\udcff" for c in value)
