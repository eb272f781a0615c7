"""The files of a job's input: which there are, what kind each is, and which are read together by one task."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence

from jobs.errors import InputError, StoreError
from jobs.route.score.formats.record import COMPRESSIONS
from jobs.route.score.listing.delta import live_files
from jobs.route.score.listing.paths import Listing, look_up
from jobs.route.score.listing.tables import DELTA, table_of
from jobs.spec.sections import InputSpec
from jobs.storage.filesystems import storage_errors
from jobs.storage.manifest import InputFile

FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
}
NOT_UNPACKED = (".xz", ".lz4", ".snappy", ".sz", ".lzma", ".lzo", ".br", ".z", ".zip", ".7z", ".tar", ".tgz")
NOT_READ = (
    *NOT_UNPACKED,
    ".orc",
    ".avro",
    ".arrow",
    ".feather",
    ".ipc",
    ".lance",
    ".xlsx",
    ".xls",
    ".tfrecord",
    ".db",
    ".sqlite",
)
"""Files of data all the same: nobody leaves one of them beside his prompts without a word."""
SPLIT_BYTES = 64 * 2**20
"""Small files are read together up to this size."""


def list_files(spec: InputSpec, say: Callable[[str], None] = lambda line: None) -> list[InputFile]:
    """The files of a job's input, each once, sorted by name within each path. `say` hears what is left out.

    Raises InputError where there are none, where they are of several kinds, and where they are a table's.
    """
    files: dict[str, InputFile] = {}
    for path in [spec.path] if isinstance(spec.path, str) else spec.path:
        for file in _list_one(path, spec.format, say):
            # Links and overlapping paths lead to a file twice; its rows are asked once.
            files.setdefault(file.uri if "://" in file.uri else os.path.realpath(file.uri), file)
    found = list(files.values())
    if not found:
        raise InputError(f"input.path: {spec.path} holds no rows; there is nothing to answer")
    kinds = {file_format(f.uri, spec.format) for f in found}
    if len(kinds) > 1:
        raise InputError(
            f"input.path: holds {' and '.join(sorted(kinds))} files; give a glob or input.format for one kind"
        )
    if all(f.size == 0 for f in found):
        raise InputError(f"input.path: {found[0].uri} is empty; there is nothing to answer")
    return found


def _list_one(path: str, wanted: str, say: Callable[[str], None]) -> list[InputFile]:
    try:
        with storage_errors(path, "reading input.path"):
            listing = look_up(path)
            tables = table_of(listing.fs, listing.root, listing.around)
    except StoreError as error:
        raise InputError(f"input.path: {error}") from None
    for table in tables:
        root = listing.prefix + table.root
        if table.kind == DELTA and table.root == listing.root and not listing.is_pattern:
            return live_files(root)
        if table.root == listing.root or any(_within(f.path, table.root) for f in listing.files):
            raise InputError(
                f"input.path: {path}: {root} is {table.kind}, whose files also hold rows that were removed or replaced; "
                + (
                    "name the table itself"
                    if table.kind == DELTA
                    else "write its rows to a folder of their own (Parquet)"
                )
            )
    files = [
        InputFile(listing.prefix + item.path, item.size, item.mtime_ns or 0)
        for item in listing.files
        if listing.is_file or _is_input(item.base_name, wanted)
    ]
    _tell_left_out(path, listing, wanted, files, say)
    return files


def _within(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def _is_input(name: str, wanted: str) -> bool:
    """Whether a file of a folder is one to read. A format that is given takes what no name says to be of another."""
    kind = FORMATS.get(suffix_of(name))
    return kind is not None if wanted == "auto" else kind in (None, file_format(name, wanted))


def _tell_left_out(
    path: str, listing: Listing, wanted: str, files: Sequence[InputFile], say: Callable[[str], None]
) -> None:
    """Raises InputError for files that are to be read and cannot be, or where there is none at all."""
    names = [item.base_name for item in listing.files]
    packed = [name for name in names if suffix_of(name) in NOT_UNPACKED and suffix_of(_stem(name)) in FORMATS]
    if packed and wanted == "auto":
        raise InputError(f"input.path: {path}: {packed[0]} is packed in a way that is not read; pack it as .gz or .zst")
    data = [] if wanted != "auto" or listing.is_file else [n for n in names if suffix_of(n) in NOT_READ]
    if not files:
        beside = f" (but {data[0]}, which is of a kind that is not read)" if data else ""
        raise InputError(f"input.path: no Parquet, JSONL or CSV file at {path}{beside}")
    if data:
        say(f"input.path: {path}: of a kind that is not read, and left out: {some(data)}")
    if listing.passed_over:
        folders = [name.rsplit("/", 1)[-1] for name in listing.passed_over]
        say(
            f"input.path: {path} also matches folders, which are not read (for those, end it in a slash): {some(folders)}"
        )


def some(names: Sequence[str]) -> str:
    """The first of them, for a line."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0]


def suffix_of(name: str) -> str:
    """Last suffix of a file name, compression left out: `a.jsonl.gz` → `.jsonl`."""
    name = name.rsplit("/", 1)[-1].lower()
    for compressed in COMPRESSIONS:
        name = name.removesuffix(compressed)
    return "." + name.rsplit(".", 1)[-1] if "." in name else ""


def file_format(uri: str, wanted: str) -> str:
    """parquet, jsonl or csv. Raises InputError where neither the suffix nor `input.format` says."""
    if wanted != "auto":
        return "jsonl" if wanted == "openai_batch" else wanted
    kind = FORMATS.get(suffix_of(uri))
    if kind is None:
        if suffix_of(uri) in NOT_READ:
            raise InputError(
                f"input.path: {uri}: {suffix_of(uri)} is not read; write it as Parquet, or as .gz or .zst of text"
            )
        raise InputError(f"input.path: {uri} has no known suffix; set input.format to parquet, jsonl or csv")
    return kind


def names_of(files: Sequence[InputFile]) -> list[str]:
    """What each file is called where its rows have no id: its name, with the folders that tell it from others of that name."""
    paths = [file.uri.split("/") for file in files]
    times = Counter(path[-1] for path in paths)
    shared = len(os.path.commonprefix([path[:-1] for path in paths]))
    return [path[-1] if times[path[-1]] == 1 else "/".join(path[shared:]) for path in paths]


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
