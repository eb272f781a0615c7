"""The columns of the input: their names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import InputError, StoreError
from jobs.route.score.files import file_format
from jobs.route.score.listing.partitions import folder_columns
from jobs.route.score.records import own_records, read_records
from jobs.spec.sections import InputSpec
from jobs.storage.filesystems import filesystem_of, storage_errors
from jobs.storage.manifest import InputFile


def columns_of(files: Sequence[InputFile], spec: InputSpec, peek: int = 100) -> list[str]:
    """Column names of the input: of the first file and the last that can be read, by their schema or their first rows, and by the
    folders they lie in. Raises InputError where no file holds a row that can be read.
    """
    why: list[str] = []
    first = next((names for file in files if (names := _names(file, spec, peek, why))), None)
    if first is None:
        raise InputError(f"input.path: {why[0]}")
    last = next(names for file in reversed(files) if (names := _names(file, spec, peek, why)))
    return list(dict.fromkeys([*first, *last]))


def _names(file: InputFile, spec: InputSpec, peek: int, why: list[str]) -> list[str]:
    """Column names of a file. None where its first rows tell of none; then `why` gets the reason."""
    folders = folder_columns(file.uri)
    if file.size and file_format(file.uri, spec.format) == "parquet":
        return list({**dict.fromkeys(_schema(file).names), **folders})
    records = [record for _, record in zip(range(peek), read_records(file, spec, None), strict=False)]
    names = dict.fromkeys(name for record in records for name in record.columns)
    errors = [record.error for record in records if record.error]
    if (records and len(errors) < len(records)) or len(names) > len(folders):
        return list(names)
    unreadable = f"none of the first {len(records)} lines can be read ({errors[0]})" if errors else ""
    why.append(f"{file.uri}: {unreadable or 'it holds no rows; there is nothing to answer'}")
    return []


def in_file_and_folder(file: InputFile, spec: InputSpec, names: Iterable[str]) -> list[str]:
    """Those of `names` that the file has as columns and lies in a folder of; the file's are read."""
    twice = [name for name in names if name in folder_columns(file.uri)]
    if not twice:
        return []
    own = next(own_records(file, spec, twice), None)
    return [name for name in twice if own is not None and name in own.columns]


def _schema(file: InputFile) -> pa.Schema:
    try:
        with storage_errors(file.uri, "reading input"):
            fs, path = filesystem_of(file.uri)
            return pq.read_schema(path, filesystem=fs)
    except StoreError as error:
        raise InputError(f"input.path: {error}") from None
