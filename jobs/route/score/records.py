"""Reading prompts: Parquet, JSONL, CSV or OpenAI batch lines → requests, one row each, none lost.

A row that cannot be asked (null prompt, broken JSON, bytes that are not UTF-8) keeps its place and carries an `input_error`.
What is wrong with the set as a whole (missing column, unreadable file, nothing there) raises before anything is spent.

Cost: one pass in Python over the rows, some 10 µs each (JSON, template, BLAKE2b); small beside a router.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.fs as pafs

from jobs.errors import InputError, StoreError
from jobs.route.score.files import file_format
from jobs.route.score.formats.csv import read_csv
from jobs.route.score.formats.jsonl import read_jsonl
from jobs.route.score.formats.parquet import read_parquet
from jobs.route.score.formats.record import Record
from jobs.route.score.listing.partitions import folder_columns
from jobs.spec.sections import InputSpec
from jobs.storage.filesystems import filesystem_of, storage_errors
from jobs.storage.manifest import InputFile

SMALL_BYTES = {"jsonl": 2**12, "csv": 2**12, "parquet": 2**16}
"""Files up to this size may well hold no row: a long header, or a footer of many columns."""
MOST_LOOKED_AT = 2000
"""Of them, so many are opened to say so before the run."""


def read_records(file: InputFile, spec: InputSpec, columns: list[str] | None) -> Iterator[Record]:
    """Rows of one file in order. `columns`: the ones needed (None: all). Raises InputError for an unreadable file.

    The folders that it lies in are columns too, but for those that it has itself.
    """
    folders = folder_columns(file.uri)
    if not folders:
        yield from own_records(file, spec, columns)
        return
    plain: pa.RecordBatch | None = None
    batch: pa.RecordBatch | None = None
    for record in own_records(file, spec, columns):
        if record.stored is not None and record.stored[0] is not plain:
            plain = record.stored[0]
            batch = _with_columns(plain, folders)
        stored = record.stored and (batch, record.stored[1])
        yield Record({**folders, **record.columns}, record.error, stored)


def _with_columns(batch: pa.RecordBatch, columns: Mapping[str, str | None]) -> pa.RecordBatch:
    for name in columns.keys() - set(batch.schema.names):
        batch = batch.append_column(name, pa.array([columns[name]] * batch.num_rows, pa.string()))
    return batch


def own_records(file: InputFile, spec: InputSpec, columns: list[str] | None) -> Iterator[Record]:
    """As `read_records`, of the file alone."""
    try:
        with storage_errors(file.uri, "reading input"):
            fs, path = filesystem_of(file.uri)
            yield from _records(fs, path, file, spec, columns)
    except StoreError as error:
        raise InputError(f"input.path: {error}") from None


def _records(
    fs: pafs.FileSystem, path: str, file: InputFile, spec: InputSpec, columns: list[str] | None
) -> Iterator[Record]:
    kind = file_format(file.uri, spec.format)
    if file.size == 0:
        return iter(())
    if kind == "csv":
        return read_csv(fs, path, spec.csv)
    if kind == "jsonl":
        named = (spec.id, spec.prompt, spec.messages, *spec.keep, *(columns or ()))
        return read_jsonl(fs, path, [name for name in named if name])
    return read_parquet(fs, path, columns)


def files_without_rows(files: Sequence[InputFile], spec: InputSpec) -> list[InputFile]:
    """Of the small ones among `files`, those that hold no row: empty, packed emptiness, a header alone, blank lines.

    A broken file is none of them: it is read, and says so, in its turn.
    """
    small = [file for file in files if file.size <= SMALL_BYTES[file_format(file.uri, spec.format)]][:MOST_LOOKED_AT]

    def is_empty(file: InputFile) -> bool:
        try:
            return next(read_records(file, spec, None), None) is None
        except InputError:
            return False

    with ThreadPoolExecutor(16) as pool:
        return [file for file, empty in zip(small, pool.map(is_empty, small), strict=True) if empty]
