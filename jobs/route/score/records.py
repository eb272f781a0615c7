"""Reading prompts: Parquet, JSONL, CSV or OpenAI batch lines → requests, one row each, none lost.

A row that cannot be asked (null prompt, broken JSON, bytes that are not UTF-8) keeps its place and carries an `input_error`.
What is wrong with the set as a whole (missing column, unreadable file, nothing there) raises before anything is spent.

Cost: one pass in Python over the rows, some 10 µs each (JSON, template, BLAKE2b); small beside a router.
"""

from __future__ import annotations

import csv
import fnmatch
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from jobs.errors import InputError, StoreError
from jobs.filesystems import filesystem_of, storage_errors
from jobs.spec import InputSpec

FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
SPLIT_BYTES = 64 * 2**20
"""Small files are read together up to this size."""
READ_ROWS = 4096
NOT_UTF8 = "not UTF-8"


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of the frozen listing. `modified_ns` is 0 where the store does not tell."""

    uri: str
    size: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class Record:
    """One row as it stood in the input: its columns, or why it could not be read."""

    columns: dict[str, Any]
    error: str = ""


def list_files(spec: InputSpec) -> list[InputFile]:
    """The files of a job's input, sorted by name. Raises InputError where there are none."""
    files: list[InputFile] = []
    for path in [spec.path] if isinstance(spec.path, str) else spec.path:
        files += _list_one(path, spec.format)
    if not files:
        raise InputError("input.path: an empty list; name a file, a folder or a glob")
    kinds = {file_format(f.uri, spec.format) for f in files}
    if len(kinds) > 1:
        raise InputError(
            f"input.path: holds {' and '.join(sorted(kinds))} files; give a glob or input.format for one kind"
        )
    if all(f.size == 0 for f in files):
        raise InputError(f"input.path: {files[0].uri} is empty; there is nothing to answer")
    return files


def _list_one(path: str, wanted: str) -> list[InputFile]:
    scheme = path.split("://")[0] + "://" if "://" in path else ""
    base, pattern = path, ""
    if any(c in path for c in "*?["):
        head = path[: min(path.index(c) for c in "*?[" if c in path)]
        base, pattern = head.rsplit("/", 1)[0] if "/" in head else ".", path
    try:
        with storage_errors(path, "reading input.path"):
            fs, root = filesystem_of(base)
            info = fs.get_file_info(root)
            if info.type == pafs.FileType.File:
                found = [info]
            else:
                found = fs.get_file_info(pafs.FileSelector(root, recursive=True, allow_not_found=bool(pattern)))
    except StoreError as error:
        raise InputError(f"input.path: {error}") from None
    prefix = "" if scheme in ("", "file://") else scheme
    if pattern:
        absolute = filesystem_of(pattern)[1]
        found = [f for f in found if fnmatch.fnmatch(f.path, absolute)]
    single = info.type == pafs.FileType.File
    files = []
    for item in sorted(found, key=lambda f: f.path):
        name = item.path.rsplit("/", 1)[-1]
        hidden = any(part.startswith((".", "_")) for part in item.path[len(root) :].split("/") if part)
        if item.type != pafs.FileType.File or (hidden and not single):
            continue
        if single or wanted != "auto" or suffix_of(name) in FORMATS:
            files.append(InputFile(prefix + item.path, item.size, item.mtime_ns or 0))
    if not files:
        raise InputError(f"input.path: no Parquet, JSONL or CSV file at {path}")
    return files


def suffix_of(name: str) -> str:
    """Last suffix of a file name, compression left out: `a.jsonl.gz` → `.jsonl`."""
    for compressed in COMPRESSIONS:
        name = name.removesuffix(compressed)
    return "." + name.rsplit(".", 1)[-1].lower() if "." in name else ""


def file_format(uri: str, wanted: str) -> str:
    """parquet, jsonl or csv. Raises InputError where neither the suffix nor `input.format` says."""
    if wanted != "auto":
        return "jsonl" if wanted == "openai_batch" else wanted
    kind = FORMATS.get(suffix_of(uri))
    if kind is None:
        raise InputError(f"input.path: {uri} has no known suffix; set input.format to parquet, jsonl or csv")
    return kind


def make_splits(files: list[InputFile]) -> list[list[int]]:
    """Consecutive files (by index) read by one task: one large file, or small ones up to SPLIT_BYTES together."""
    splits: list[list[int]] = []
    size = SPLIT_BYTES
    for index, file in enumerate(files):
        if size + file.size > SPLIT_BYTES:
            splits.append([])
            size = 0
        splits[-1].append(index)
        size += file.size
    return splits


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


def listing_json(files: Iterable[InputFile]) -> list[dict[str, Any]]:
    """The listing as it is frozen in the run's manifest."""
    return [asdict(file) for file in files]


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


def whole(text: str) -> str:
    """`text` with what UTF-8 cannot hold (half of a surrogate pair, legal in JSON) replaced by a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


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
