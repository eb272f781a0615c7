"""A path of the job file → the files it means. A name that is there is taken as it stands; else `*`, `?` and `[…]` match.

`*` stays within one folder; `**` is any number of folders, none included. A name is looked for as it stands at each step of
the path, so that `[2024]/*.jsonl` reads the folder `[2024]` where there is one. One recursive listing, whatever the pattern.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from urllib.parse import unquote

import pyarrow.fs as pafs

from jobs.errors import StoreError
from jobs.storage.filesystems import filesystem_of

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """What one path of the job file means."""

    fs: pafs.FileSystem
    prefix: str
    """What makes a URI of a path in `fs`: "" for local files."""
    root: str
    """The part of the path without a pattern: a folder, or the file itself."""
    is_file: bool
    is_pattern: bool
    files: list[pafs.FileInfo]
    """Sorted by path."""
    around: list[str] = field(default_factory=list)
    """Every path below `root` that was seen on the way, hidden ones included."""
    passed_over: list[str] = field(default_factory=list)
    """Folders that the pattern matches beside files: their files are not among `files`."""


def look_up(path: str) -> Listing:
    """The files that `path` means, hidden ones left out. Raises StoreError, OSError; FileNotFoundError where nothing is there."""
    scheme, _, rest = path.partition("://") if "://" in path else ("", "", path)
    prefix = "" if scheme in ("", "file") else f"{scheme}://"
    fs, root = filesystem_of(prefix + re.sub(r"/(?:\./|/)*", "/", rest) if prefix else path)
    if scheme == "file" and "%" in path and not _exists(fs, root) and _exists(fs, unquote(root)):
        root = unquote(root)  # a URI as pathlib and browsers write it
    base, pattern = _split(fs, root)
    if not pattern:
        info = fs.get_file_info(base)
        if info.type == pafs.FileType.File:
            return Listing(fs, prefix, base, True, False, [info])
        found = _list(fs, base)
        return Listing(fs, prefix, base, False, False, _files(found, base), around=[f.path for f in found])
    if prefix and not base.strip("/"):
        raise StoreError(f"{path}: names no bucket; write it as {prefix}bucket/prefix")
    in_folders = path.endswith("/")
    flat = len(pattern) == 1 and "**" not in pattern and not in_folders
    found = fs.get_file_info(pafs.FileSelector(base, recursive=not flat, allow_not_found=True))
    files, folders, passed_over = _choose(found, base, pattern, in_folders)
    for folder in folders:
        inside = _list(fs, folder) if flat else [f for f in found if f.path.startswith(folder + "/")]
        files += _files(inside, folder)
        found = [*found, *inside] if flat else found
    ordered = sorted({f.path: f for f in files}.values(), key=lambda f: f.path)
    return Listing(
        fs=fs, prefix=prefix, root=base, is_file=False, is_pattern=True, files=ordered,
        around=[f.path for f in found], passed_over=passed_over,
    )  # fmt: skip


def is_hidden(name: str) -> bool:
    """Names that programs write for themselves: `.crc`, `_SUCCESS`, `_temporary`; but `_year=2024` is a column."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _exists(fs: pafs.FileSystem, path: str) -> bool:
    return bool(fs.get_file_info(path).type != pafs.FileType.NotFound)


def _split(fs: pafs.FileSystem, path: str) -> tuple[str, list[str]]:
    """(what is there as it stands, the pattern below it). An empty pattern for a path without one."""
    if not _is_pattern(path) or _exists(fs, path):
        return path, []
    names = path.split("/")
    at = next(i for i, name in enumerate(names) if _is_pattern(name))
    while at < len(names) - 1 and (not _is_pattern(names[at]) or _exists(fs, "/".join(names[: at + 1]))):
        at += 1
    # `**.jsonl` means files at any depth: as a name of its own `**` would be no more than `*`.
    pattern = [part for name in names[at:] for part in (("**", name[1:]) if re.match(r"\*\*.", name) else (name,))]
    return "/".join(names[:at]) or "/", pattern


def _is_pattern(name: str) -> bool:
    return any(c in name for c in "*?[")


def _is_table_name(path: str) -> bool:
    """Writers of many files call their folder `out.parquet`."""
    return path.lower().endswith((".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv"))


def _list(fs: pafs.FileSystem, folder: str) -> list[pafs.FileInfo]:
    return list(fs.get_file_info(pafs.FileSelector(folder, recursive=True)))


def _files(found: Sequence[pafs.FileInfo], folder: str) -> list[pafs.FileInfo]:
    """Those files that have no hidden name below `folder`, by path."""
    files = [f for f in found if f.type == pafs.FileType.File and not any(map(is_hidden, _below(f.path, folder)))]
    return sorted(files, key=lambda f: f.path)


def _below(path: str, folder: str) -> Names:
    return tuple(name for name in path[len(folder) :].split("/") if name)


def _choose(
    found: Sequence[pafs.FileInfo], base: str, pattern: Sequence[str], in_folders: bool
) -> tuple[list[pafs.FileInfo], list[str], list[str]]:
    """(files that match, folders that match and are read, folders that match and are not).

    A folder is read where the pattern ends in a slash, where it is named like a file, or where no file matches.
    """
    entries = {_below(info.path, base): info for info in found}
    matched = [entries[names] for names in sorted(set(_matches(list(entries), 0, pattern)))]
    files = [f for f in matched if f.type == pafs.FileType.File and not in_folders]
    folders = [f.path for f in matched if f.type == pafs.FileType.Directory and pattern[-1] != "**"]
    read = [f for f in folders if in_folders or not files or _is_table_name(f)]
    if in_folders and pattern[-1] == "**":
        files = [f for f in matched if f.type == pafs.FileType.File]
    inside_read = tuple(f + "/" for f in read)
    return files, read, [f for f in folders if f not in read and not f.startswith(inside_read)]


def _matches(entries: Sequence[Names], at: int, pattern: Sequence[str]) -> Iterator[Names]:
    """Of entries that agree before name number `at`, those that match `pattern` from there to their end."""
    head, rest = pattern[0], pattern[1:]
    if head == "**" and not rest:
        yield from (names for names in entries if not any(is_hidden(name) for name in names[at:]))
        return
    groups: dict[str, list[Names]] = {}
    for names in entries:
        if len(names) > at:
            groups.setdefault(names[at], []).append(names)
    if head == "**":
        yield from _matches(entries, at, rest)
        for name, group in groups.items():
            if not is_hidden(name):
                yield from _matches(group, at + 1, pattern)
        return
    for name in [head] if head in groups else [name for name in groups if _matches_name(name, head)]:
        if rest:
            yield from _matches(groups[name], at + 1, rest)
        else:
            yield from (names for names in groups[name] if len(names) == at + 1)


def _matches_name(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) and (not is_hidden(name) or pattern[0] == name[0])
