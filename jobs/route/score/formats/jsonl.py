"""JSON lines: one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow.fs as pafs

from jobs.route.score.formats.record import NOT_UTF8, Record, open_text


def read_jsonl(fs: pafs.FileSystem, path: str, columns: list[str] | None) -> Iterator[Record]:
    with open_text(fs, path) as stream:
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
