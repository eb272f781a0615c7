"""The files of a job's input: which there are, what kind each is, and which are read together by one task."""

from __future__ import annotations

import fnmatch

import pyarrow.fs as pafs

from jobs.errors import InputError, StoreError
from jobs.route.score.formats.record import COMPRESSIONS
from jobs.spec.sections import InputSpec
from jobs.storage.filesystems import filesystem_of, storage_errors
from jobs.storage.manifest import InputFile

FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
}
SPLIT_BYTES = 64 * 2**20
"""Small files are read together up to this size."""


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
