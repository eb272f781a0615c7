"""Folders that are more than their files: tables of Delta Lake, Iceberg, Hudi and the like keep removed and replaced rows.

Which of their files hold rows that are still there is in a log of their own, so a table is refused, from whichever path it is
reached: the folder, a folder or file within it, a pattern over its files. `delta` reads the live files of one kind.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow.fs as pafs

DELTA = "a Delta table"
FOLDERS = {
    "_delta_log": DELTA,
    ".hoodie": "a Hudi table",
    "_spark_metadata": "the output of a Spark stream",
}
"""Name of a log's folder → what it is the log of."""
LOG_FILES = {
    "metadata": ("an Iceberg table", r".*\.metadata\.json(\.gz)?|snap-.*\.avro|version-hint\.text"),
    "_versions": ("a Lance table", r".*\.manifest"),
    "snapshot": ("a Paimon table", r"snapshot-\d+"),
}
"""Folders that may be a log → of what, where they hold a file of such a name."""
SAVED = ("state.json", "dataset_info.json")
"""Both beside Arrow files: a data set as `datasets.save_to_disk` leaves it, whose rows are not in its JSON files."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that files lie in."""

    kind: str
    root: str
    """Path of its folder."""


def table_of(fs: pafs.FileSystem, folder: str, paths: Iterable[str]) -> list[Table]:
    """The tables that `folder` is, lies in, or has below it. `paths`: all that is known to be below it."""
    return [*_tables_among(paths), *_tables_above(fs, folder)]


def _tables_among(paths: Iterable[str]) -> list[Table]:
    found: dict[str, Table] = {}
    saved: dict[str, int] = {}
    for path in paths:
        names = path.split("/")
        for at, name in enumerate(names):
            root = "/".join(names[:at])
            if name in FOLDERS and at < len(names):
                found.setdefault(root, Table(FOLDERS[name], root))
            elif name in LOG_FILES and at == len(names) - 2 and _is_log(name, names[-1]):
                found.setdefault(root, Table(LOG_FILES[name][0], root))
        if names[-1] in SAVED:
            root = "/".join(names[:-1])
            saved[root] = saved.get(root, 0) + 1
            if saved[root] == len(SAVED):
                found.setdefault(root, Table("a data set of save_to_disk", root))
    return list(found.values())


def _tables_above(fs: pafs.FileSystem, folder: str) -> list[Table]:
    """The innermost table that `folder` is or lies in. What may not be looked at is no table."""
    names = folder.split("/")
    for n in range(len(names), 0, -1):
        root = "/".join(names[:n])
        if not root:
            continue
        with contextlib.suppress(OSError):
            marks = fs.get_file_info([f"{root}/{name}" for name in (*FOLDERS, *LOG_FILES, *SAVED)])
            there = [m for m in marks if m.type != pafs.FileType.NotFound]
            logs = [
                m.path for m in there if m.path.rsplit("/", 1)[-1] in LOG_FILES and m.type == pafs.FileType.Directory
            ]
            inside = [f.path for log in logs for f in fs.get_file_info(pafs.FileSelector(log))]
            if tables := [t for t in _tables_among([*(m.path for m in there), *inside]) if t.root == root]:
                return tables
    return []


def _is_log(folder: str, name: str) -> bool:
    return bool(re.fullmatch(LOG_FILES[folder][1], name))
