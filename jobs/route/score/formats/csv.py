"""CSV with a header."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import pyarrow.fs as pafs

from jobs.errors import InputError
from jobs.route.score.formats.record import NOT_UTF8, Record, open_text


def read_csv(fs: pafs.FileSystem, path: str, columns: list[str] | None) -> Iterator[Record]:
    csv.field_size_limit(2**31 - 1)  # a prompt may be far longer than csv's default of 128 KiB
    with open_text(fs, path) as raw, io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape", newline="") as text:
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
