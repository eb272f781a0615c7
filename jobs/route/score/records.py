"""Reading prompts: Parquet, JSONL, CSV or OpenAI batch lines → requests, one row each, none lost.

A row that cannot be asked (null prompt, broken JSON, bytes that are not UTF-8) keeps its place and carries an `input_error`.
What is wrong with the set as a whole (missing column, unreadable file, nothing there) raises before anything is spent.

Cost: one pass in Python over the rows, some 10 µs each (JSON, template, BLAKE2b); small beside a router.
"""

from __future__ import annotations

from collections.abc import Iterator

from jobs.errors import InputError, StoreError
from jobs.route.score.files import file_format
from jobs.route.score.formats.csv import read_csv
from jobs.route.score.formats.jsonl import read_jsonl
from jobs.route.score.formats.parquet import read_parquet
from jobs.route.score.formats.record import Record
from jobs.spec.sections import InputSpec
from jobs.storage.filesystems import filesystem_of, storage_errors
from jobs.storage.manifest import InputFile

READERS = {"parquet": read_parquet, "jsonl": read_jsonl, "csv": read_csv}


def read_records(file: InputFile, spec: InputSpec, columns: list[str] | None) -> Iterator[Record]:
    """Rows of one file in order. `columns`: the ones needed (None: all). Raises InputError for an unreadable file."""
    kind = file_format(file.uri, spec.format)
    try:
        with storage_errors(file.uri, "reading input"):
            fs, path = filesystem_of(file.uri)
            yield from READERS[kind](fs, path, columns)
    except StoreError as error:
        raise InputError(f"input.path: {error}") from None
